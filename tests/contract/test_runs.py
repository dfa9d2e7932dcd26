from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from finetune.config.recipes import LoRAConfig
from finetune.export.verify import relative_difference
from finetune.methods.lora.method import LoRA
from finetune.models.family import Components, ModelFamily
from finetune.optim.ema import load_trained_state
from tests.contract.calls import drawn
from tests.contract.conftest import PROMPT, RESUMED, reloaded_pipeline
from tests.support.families import tiny_family
from tests.support.runs import (
    SUBJECT,
    UNCACHED,
    WITH_TEXT_ENCODER,
    Options,
    completed,
    final_state,
    metrics,
    refuse_other_bits,
    refused,
    without_lora,
)


def test_a_run_is_the_same_uncached_and_killed_and_resumed(lora_run: Path, options: Options, tmp_path: Path) -> None:
    refuse_other_bits(lora_run, options | RESUMED, UNCACHED, tmp_path)


@torch.no_grad()
def test_both_lora_files_draw_in_a_plain_pipeline_what_the_trained_model_draws(
    lora_run: Path, name: str, family: ModelFamily, components: Components, model: Path
) -> None:
    untouched = drawn(reloaded_pipeline(model), PROMPT)
    method = LoRA(LoRAConfig(rank=4))
    network = method.network(family, components)
    method.attach(network, seed=0)
    state = final_state(lora_run)
    trained = {key.removeprefix("trained."): value for key, value in state.items() if key.startswith("trained.")}
    load_trained_state(network, trained)
    live = drawn(family.pipeline(components), PROMPT)
    assert relative_difference(live, untouched) > 1e-3
    single = ["style.safetensors"] if tiny_family(name).loads_single_file else []
    for file in ("pytorch_lora_weights.safetensors", *single):
        pipeline = reloaded_pipeline(model)
        pipeline.load_lora_weights(str(lora_run / "export"), weight_name=file)
        assert relative_difference(live, drawn(pipeline, PROMPT)) < 1e-4


def finished(recipe: str, options: Options, folder: Path) -> Path:
    completed(recipe, options | {"train.steps": 2, "output.folder": folder / "out"}, folder / "log")
    assert [row["step"] for row in metrics(folder / "out")] == [1, 2]
    return folder / "out" / "export"


def test_full_fine_tuning_with_the_text_encoders_exports_a_pipeline(
    options: Options, model: Path, tmp_path: Path
) -> None:
    export = finished("full", without_lora(options) | WITH_TEXT_ENCODER | {"optim.lr": 1e-4}, tmp_path)
    trained, untouched = reloaded_pipeline(export), reloaded_pipeline(model)
    assert type(trained) is type(untouched)
    assert relative_difference(drawn(untouched, PROMPT), drawn(trained, PROMPT)) > 1e-5


def test_adapters_on_the_text_encoders_too_are_exported_or_refused(
    family: ModelFamily, options: Options, pipeline: Any, tmp_path: Path
) -> None:
    assert family.reads_text_encoder_lora == ("text_encoder" in type(pipeline)._lora_loadable_modules)
    own = options | WITH_TEXT_ENCODER
    if not family.reads_text_encoder_lora:
        refused("lora", own | {"output.folder": tmp_path / "refused"}, tmp_path / "log", "error: train.text_encoder")
        own["lora.kind"] = "loha"
    finished("lora", own, tmp_path)


@torch.no_grad()
def test_images_beyond_the_denoisers_positions_are_refused(
    family: ModelFamily, components: Components, options: Options, tmp_path: Path
) -> None:
    longest, step = family.longest_side(components), family.pixel_multiple(components.vae)
    if longest is None:
        return
    pipeline: Any = family.pipeline(components)
    given = family.pipeline_prompts(components, PROMPT, "")
    pipeline(**given, height=step, width=longest, num_inference_steps=1, output_type="latent")
    own: Options = {"data.resolution": longest + step, "data.bucket_step": step, "data.max_aspect": 1}
    # dreambooth makes class images before it looks at the data.
    for recipe, more in (("lora", {}), ("dreambooth", SUBJECT)):
        given = options | own | more | {"output.folder": tmp_path / "out"}
        refused(recipe, given, tmp_path / "log", "error: data.resolution, data.max_aspect")


@pytest.mark.parametrize("kind", ["pictures", "prediction"])
def test_dreambooth_keeps_the_class_by_images_or_predictions(kind: str, options: Options, tmp_path: Path) -> None:
    own: Options = {"prior.kind": kind, "prior.num_pictures": 2, "prior.num_inference_steps": 1}
    finished("dreambooth", options | SUBJECT | own, tmp_path)


def test_a_word_is_learned_or_refused_with_the_reason(name: str, options: Options, model: Path, tmp_path: Path) -> None:
    own = without_lora(options) | {"tokens.names": ("<ink>",), "data.template": "{caption} in <ink>"}
    if not tiny_family(name).learns_tokens:
        own |= {"output.folder": tmp_path / "out"}
        refused("textual_inversion", own, tmp_path / "log", "error: tokens.names")
        return
    export = finished("textual_inversion", own, tmp_path)
    assert {path.name for path in (export / "embeddings").iterdir()} == {"ink", "ink.safetensors"}
    pipeline: Any = DiffusionPipeline.from_pretrained(model)
    if sum(name.startswith("text_encoder") for name in pipeline.components) == 1:
        pipeline.load_textual_inversion(export / "embeddings" / "ink")
        assert len(pipeline.tokenizer.tokenize("<ink>")) == 1
