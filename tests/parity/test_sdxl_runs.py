import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from finetune.export.tokens import save_tokens, token_differences
from finetune.models.families.sdxl import StableDiffusionXL
from finetune.models.family import ModelSource
from tests.support.damage import change_json
from tests.support.jobs import completed_job
from tests.support.runs import Options, assert_close_metrics, completed, final_state, without_lora
from tests.tiny.sdxl import WIDTHS, save_pipeline
from tests.unit.export.test_tokens import metadata_of

FAMILY = StableDiffusionXL()
EMBEDDING = "embeddings.token_embedding.rows"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def options(tiny_run: Options, model: Path) -> Options:
    return tiny_run | {"model.source": model, "model.family": "sdxl"}


@pytest.mark.slow
def test_two_processes_equal_one(options: Options, tmp_path: Path) -> None:
    """DistributedDataParallel fails where a trained weight gets no gradient."""
    options |= {"train.steps": 2, "train.text_encoder": True, "cache.text": False, "data.caption_dropout": 0.5}
    options |= {"train.batch_size": 4}
    completed("lora", options | {"output.folder": tmp_path / "one"}, tmp_path / "log")
    completed_job("lora", options | {"output.folder": tmp_path / "two"}, tmp_path / "logs")
    assert_close_metrics(tmp_path / "one", tmp_path / "two", "loss", rel=1e-4)


def test_all_weights_train_and_the_folder_keeps_what_it_need_not_change(
    options: Options, model: Path, tmp_path: Path
) -> None:
    options = without_lora(options) | {"train.steps": 2, "train.text_encoder": True, "cache.text": False}
    completed("full", options | {"output.dtype": "fp32", "optim.lr": 1e-4}, tmp_path / "log")
    export = tmp_path / "out" / "export"
    index = json.loads((export / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline" and index["force_zeros_for_empty_prompt"] is True
    before, after = (StableDiffusionXLPipeline.from_pretrained(path) for path in (model, export))
    for part in ("text_encoder", "text_encoder_2", "unet"):
        old, new = (getattr(pipeline, part).state_dict() for pipeline in (before, after))
        same = {name for name in old if torch.equal(old[name], new[name])}
        unread = {name for name in same if "encoder.layers.2." in name or "final_layer_norm" in name}
        assert len(same) < len(old) / 2 and (part != "text_encoder" or unread)


def test_files_of_new_tokens_hold_vectors_for_both_encoders_and_give_the_trained_output(
    model: Path, tmp_path: Path
) -> None:
    """80 vectors fill more than a chunk."""
    generator = torch.Generator().manual_seed(0)
    vectors = {
        name: tuple(torch.randn(num, width, generator=generator) for width in WIDTHS)
        for name, num in (("<one>", 1), ("<ink>", 3), ("[many]", 80))
    }
    files = save_tokens(FAMILY, vectors, metadata_of(vectors), tmp_path)
    assert safetensors.torch.load_file(tmp_path / "ink.safetensors").keys() == {"clip_l", "clip_g"}
    differences = token_differences(FAMILY, ModelSource(str(model)), vectors, files)
    assert len(differences) == 9 and max(differences.values()) < 1e-6
    for name in ("ink.safetensors", "ink/learned_embeds_2.safetensors"):
        tensors = safetensors.torch.load_file(tmp_path / name)
        key = "clip_g" if "clip_g" in tensors else "<ink>"
        safetensors.torch.save_file(tensors | {key: tensors[key].flip(0)}, tmp_path / name)
    seen = token_differences(FAMILY, ModelSource(str(model)), vectors, files)
    assert all(seen[tmp_path / name] > 1e-3 for name in ("ink.safetensors", "ink/learned_embeds_2.safetensors"))


@pytest.mark.parametrize("recipe", ["textual_inversion", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_plain_pipeline_draws_the_last_preview_from_the_exported_tokens(
    recipe: str, options: Options, model: Path, tmp_path: Path
) -> None:
    own = options if recipe == "lora" else without_lora(options)
    own |= {"tokens.names": ("<ink>",), "tokens.num_vectors": 2, "tokens.init": ("red circle",), "train.steps": 2}
    own |= {"data.template": "{caption} in <ink>", "preview.prompts": ("a circle in <ink>",), "output.dtype": "fp32"}
    completed(recipe, own | {"preview.num_inference_steps": 2, "preview.num_seeds": 1}, tmp_path / "log")
    state = final_state(tmp_path / "out")
    rows = [state[f"trained.text_encoders.{part}{EMBEDDING}"] for part in ("0.", "1.text_model.")]
    assert [tuple(part.shape) for part in rows] == [(2, width) for width in WIDTHS]
    folder = tmp_path / "out" / "export" / "embeddings"
    shared = safetensors.torch.load_file(folder / "ink.safetensors")
    assert torch.equal(shared["clip_l"], rows[0]) and torch.equal(shared["clip_g"], rows[1])

    pipeline = StableDiffusionXLPipeline.from_pretrained(model, add_watermarker=False)
    # What every other program does: the pooled text is read at the end of the prompt, not at the newest token.
    pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        encoder, tokenizer = getattr(pipeline, f"text_encoder{number}"), getattr(pipeline, f"tokenizer{number}")
        pipeline.load_textual_inversion(shared[key], token="<ink>", text_encoder=encoder, tokenizer=tokenizer)
    if recipe == "lora":
        pipeline.load_lora_weights(tmp_path / "out" / "export", weight_name="out.safetensors")
    (path,) = sorted((tmp_path / "out" / "previews").glob("step_000002_*seed0*"))
    settings = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 7.5}
    drawn = pipeline("a circle in <ink>", generator=torch.Generator().manual_seed(0), **settings).images[0]
    assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(Image.open(path), dtype=int)).max() <= 2


@pytest.mark.slow
def test_an_inpainting_checkpoint_trains_and_draws(options: Options, tmp_path: Path) -> None:
    source = save_pipeline(tmp_path / "model", inpainting=True)
    options |= {"model.source": source, "train.steps": 1, "preview.prompts": ("a circle",)}
    completed("lora", options | {"preview.num_inference_steps": 2}, tmp_path / "log")
    assert list((tmp_path / "out" / "previews").glob("step_000001_*.png"))


def changed(model: Path, folder: Path, name: str, **fields: object) -> ModelSource:
    for path in model.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / name).unlink()
    (folder / name).write_text((model / name).read_text())
    change_json(folder / name, **fields)
    return ModelSource(str(folder))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}, "refiner"),
        ({"text_encoder": [None, None]}, "refiner"),
        ({"scheduler": ["diffusers", "EDMDPMSolverMultistepScheduler"]}, "EDM"),
        ({"_class_name": "StableDiffusionPipeline"}, "--model.family sd"),
    ],
)
def test_checkpoints_that_it_does_not_train_are_refused_by_their_index(
    fields: dict[str, object], word: str, model: Path, tmp_path: Path
) -> None:
    source = changed(model, tmp_path, "model_index.json", **fields)
    for ask in (FAMILY.scheduler, FAMILY.tokenizers, FAMILY.is_inpainting):
        with pytest.raises(ValueError, match=word):
            ask(source)
