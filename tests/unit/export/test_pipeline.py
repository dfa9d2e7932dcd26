from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from finetune.export.pipeline import save_full_pipeline
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components, ModelSource
from tests.support.runs import differing
from tests.tiny import sd as tiny

FAMILY = StableDiffusion()


@pytest.fixture
def components(tmp_path: Path) -> Components:
    loaded = FAMILY.load(ModelSource(str(tiny.save_pipeline(tmp_path / "base", size="micro"))))
    with torch.no_grad():
        for weight in loaded.denoiser.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return loaded


def test_the_folder_is_a_pipeline_with_the_trained_weights_and_the_given_scheduler(
    components: Components, tmp_path: Path
) -> None:
    scheduler = DDIMScheduler.from_config(components.scheduler.config, timestep_spacing="trailing")
    components = replace(components, scheduler=scheduler)
    assert save_full_pipeline(FAMILY, components, dtype="fp32", folder=tmp_path / "export") == 0
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "export", use_safetensors=True)
    assert differing(pipeline.unet.state_dict(), components.denoiser.state_dict()) == []
    assert type(pipeline.scheduler) is DDIMScheduler
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "export"]
    texts = [path.read_text() for path in (tmp_path / "export").rglob("*.json")]
    assert texts and not [text for text in texts if str(tmp_path) in text]


@pytest.mark.parametrize(
    ("dtype", "expected", "bound"), [("fp16", torch.float16, 2e-3), ("bf16", torch.bfloat16, 2e-2)]
)
def test_weights_are_rounded_in_the_files_only(
    components: Components, tmp_path: Path, dtype, expected: torch.dtype, bound: float
) -> None:
    assert 0 < save_full_pipeline(FAMILY, components, dtype=dtype, folder=tmp_path / "export") < bound
    assert {weight.dtype for weight in components.denoiser.parameters()} == {torch.float32}
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (tmp_path / "export" / part).glob("*.safetensors")
        dtypes = {weight.dtype for weight in safetensors.torch.load_file(file).values() if weight.is_floating_point()}
        assert dtypes == {expected}


def test_an_older_export_is_replaced_and_files_of_others_are_kept(components: Components, tmp_path: Path) -> None:
    (tmp_path / "export" / "unet").mkdir(parents=True)
    for name in ("mine.txt", "unet/old-00001-of-00002.safetensors"):
        (tmp_path / "export" / name).write_text("old")
    save_full_pipeline(FAMILY, components, dtype="fp32", folder=tmp_path / "export")
    assert (tmp_path / "export" / "mine.txt").exists() and (tmp_path / "export" / "model_index.json").is_file()
    assert not (tmp_path / "export" / "unet" / "old-00001-of-00002.safetensors").exists()


def test_weights_that_half_precision_cannot_hold_are_refused_and_the_older_export_stays(
    components: Components, tmp_path: Path
) -> None:
    save_full_pipeline(FAMILY, components, dtype="fp32", folder=tmp_path / "export")
    with torch.no_grad():
        components.denoiser.conv_in.weight *= 1e7
    with pytest.raises(ValueError, match=r"--output\.dtype fp32"):
        save_full_pipeline(FAMILY, components, dtype="fp16", folder=tmp_path / "export")
    stored = safetensors.torch.load_file(tmp_path / "export" / "unet" / "diffusion_pytorch_model.safetensors")
    assert float(stored["conv_in.weight"].abs().max()) < 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "export"]


@pytest.mark.parametrize("named", [{}, {"dtype": torch.float32}])
def test_a_folder_in_half_precision_draws_where_it_is_loaded_without_a_word_about_dtypes(
    components: Components, tmp_path: Path, named: dict[str, torch.dtype]
) -> None:
    save_full_pipeline(FAMILY, components, dtype="fp16", folder=tmp_path / "export")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "export", safety_checker=None, **named)
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.float32}
    pipeline("a red circle", num_inference_steps=1, output_type="latent")
