from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests.support.jobs import completed_job
from tests.support.runs import Options, assert_close_metrics, completed, final_state, metrics, refused, without_lora

TOKENS: Options = {
    "tokens.names": ("<ink>", "<wash>"),
    "tokens.num_vectors": 2,
    "tokens.init": ("red", "grey paper"),
    "data.template": "{caption} in <ink> and <wash>",
    "train.steps": 4,
    "preview.prompts": ("a circle in <ink>, <wash>",),
    "preview.num_inference_steps": 2,
    "output.dtype": "fp32",
}


def options_of(recipe: str, tiny_run: Options) -> Options:
    return (tiny_run if recipe == "lora" else without_lora(tiny_run)) | TOKENS


def drawn(pipeline: StableDiffusionPipeline) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    picture = pipeline("a circle in <ink>, <wash>", 64, 64, 2, guidance_scale=7.5, generator=generator).images[0]
    return np.asarray(picture, dtype=int)


@pytest.mark.parametrize("recipe", ["textual_inversion", "lora"])
def test_a_plain_pipeline_draws_the_last_preview_from_the_exported_files(
    recipe: str, tiny_run: Options, tiny_model: Path, tmp_path: Path
) -> None:
    """Both layouts are loaded by README's commands, with any adapters."""
    completed(recipe, options_of(recipe, tiny_run), tmp_path / "log")
    previews = [np.asarray(Image.open(path), dtype=int) for path in sorted((tmp_path / "out/previews").glob("*seed0*"))]
    export = tmp_path / "out" / "export"
    for layout in ("diffusers", "shared"):
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)
        pipeline.set_progress_bar_config(disable=True)
        for name in ("ink", "wash"):
            if layout == "diffusers":
                pipeline.load_textual_inversion(export / "embeddings" / name)
            else:
                file = {"weight_name": f"{name}.safetensors", "token": f"<{name}>"}
                pipeline.load_textual_inversion(export / "embeddings", **file)
        if recipe == "lora":
            pipeline.load_lora_weights(export)
        assert np.abs(drawn(pipeline) - previews[-1]).max() <= 2
    assert np.abs(previews[0] - previews[-1]).max() > 2
    state = final_state(tmp_path / "out")
    rows = state["trained.text_encoders.0.embeddings.token_embedding.rows"]
    with safetensors.safe_open(export / "embeddings" / "wash.safetensors", "pt") as file:
        assert list(file.keys()) == ["emb_params"] and torch.equal(file.get_tensor("emb_params"), rows[2:])
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert metadata["modelspec.trigger_phrase"] == "<wash>" and metadata["token.init"] == "grey paper"
    assert str(tmp_path) not in str(metadata)
    loaded = safetensors.torch.load_file(export / "embeddings" / "ink" / "learned_embeds.safetensors")
    assert loaded.keys() == {"<ink>"} and torch.equal(loaded["<ink>"], rows[:2])
    trained = [name for name in state if name.startswith("trained.")]
    others = [name for name in trained if not name.endswith(".rows")]
    assert len(trained) == len(others) + 1 and (others != []) == (recipe == "lora")
    assert all(".lora_" in name for name in others)
    assert metrics(tmp_path / "out")[-1]["lr_tokens" if recipe == "lora" else "lr"] == 1e-2


def test_captions_without_the_token_are_refused_before_a_model_is_looked_for(tiny_run: Options, tmp_path: Path) -> None:
    options = options_of("textual_inversion", tiny_run) | {"data.template": "{caption}", "model.source": "absent"}
    assert "model.source" not in refused("textual_inversion", options, tmp_path / "log", "no caption of")


def test_images_without_captions_learn_a_token_and_a_run_is_not_resumed_with_another(
    tiny_run: Options, tmp_path: Path
) -> None:
    options = options_of("textual_inversion", tiny_run) | {"data.captions": "none", "data.template": "a <ink> <wash>"}
    options |= {"preview.prompts": (), "train.steps": 1, "cache.folder": tmp_path / "cache"}
    completed("textual_inversion", options, tmp_path / "log")
    assert (tmp_path / "cache" / "latents").exists() and not (tmp_path / "cache" / "text").exists()
    others = options | {"tokens.names": ("<wash>", "<ink>"), "train.steps": 2}
    words = "tokens.names: got <wash> <ink>, expected <ink> <wash>"
    refused("textual_inversion", others, tmp_path / "log", words)


@pytest.mark.slow
def test_two_processes_equal_one(tiny_run: Options, tmp_path: Path) -> None:
    """With dropped captions, so one process has batches without a token."""
    options = options_of("lora", tiny_run) | {"preview.prompts": (), "data.caption_dropout": 0.5, "train.steps": 3}
    options |= {"train.batch_size": 4}
    completed("lora", options | {"output.folder": tmp_path / "one"}, tmp_path / "log")
    completed_job("lora", options | {"output.folder": tmp_path / "two"}, tmp_path / "logs")
    first, second = final_state(tmp_path / "one"), final_state(tmp_path / "two")
    for name in (name for name in first if name.startswith("trained.")):
        torch.testing.assert_close(first[name], second[name], rtol=1e-2, atol=1e-4)
    assert_close_metrics(tmp_path / "one", tmp_path / "two", "loss", rel=1e-4)
