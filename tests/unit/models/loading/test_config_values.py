import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMScheduler

from finetune.config.loss import LossConfig
from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.models.unet import diffusion_objective
from tests.support.damage import change_json
from tests.support.families import save_tiny_pipeline

SCHEDULER, VAE = "scheduler/scheduler_config.json", "vae/config.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save_tiny_pipeline(name, tmp_path_factory.mktemp(name)) for name in ("sd", "sd3")}


@pytest.mark.parametrize(
    ("name", "file", "settings"),
    [
        ("sd", SCHEDULER, {"num_train_timesteps": 0}),
        ("sd", SCHEDULER, {"num_train_timesteps": 1_000_000_000}),
        ("sd", SCHEDULER, {"num_train_timesteps": "1000"}),
        ("sd", SCHEDULER, {"beta_start": -0.1}),
        ("sd", SCHEDULER, {"beta_start": 0.02}),
        ("sd", SCHEDULER, {"beta_end": 1.5}),
        ("sd", SCHEDULER, {"beta_end": math.nan}),
        ("sd", SCHEDULER, {"beta_schedule": "unheard_of"}),
        ("sd", SCHEDULER, {"trained_betas": [0.1, 0.0, 0.2]}),
        ("sd", SCHEDULER, {"rescale_betas_zero_snr": "yes"}),
        ("sd", SCHEDULER, {"timestep_spacing": "unheard_of"}),
        ("sd", SCHEDULER, {"steps_offset": "1"}),
        ("sd3", SCHEDULER, {"use_dynamic_shifting": "no"}),
        ("sd", VAE, {"scaling_factor": 0}),
        ("sd", VAE, {"scaling_factor": -0.18}),
        ("sd", VAE, {"scaling_factor": math.nan}),
        ("sd", VAE, {"scaling_factor": None}),
        ("sd", VAE, {"latents_mean": [0.0] * 4}),
        ("sd", "text_encoder/config.json", {"eos_token_id": 5}),
        ("sd3", SCHEDULER, {"num_train_timesteps": 0}),
        ("sd3", SCHEDULER, {"shift": 0}),
        ("sd3", SCHEDULER, {"base_image_seq_len": 4096}),
        ("sd3", VAE, {"shift_factor": None}),
        ("sd3", VAE, {"shift_factor": math.inf}),
    ],
)
def test_a_setting_that_no_model_can_have_is_refused(
    name: str, file: str, settings: dict[str, Any], models: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(models[name], tmp_path / "model")
    change_json(folder / file, **settings)
    family, source = family_named(name), ModelSource(str(folder))
    load = family.scheduler if file == SCHEDULER else family.load
    with pytest.raises(ValueError, match=rf"^model\.source: .*{next(iter(settings))}"):
        load(source)


def test_a_scheduler_config_that_is_a_list_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["sd"], tmp_path / "model")
    (folder / SCHEDULER).write_text("[]")
    with pytest.raises(ValueError, match=rf"^model\.source: {SCHEDULER} of .* is not a JSON object"):
        family_named("sd").scheduler(ModelSource(str(folder)))
    (folder / SCHEDULER).write_text("{")
    with pytest.raises(ValueError, match=r"^model\.source: scheduler of .*\. Put back the files in scheduler/"):
        family_named("sd").scheduler(ModelSource(str(folder)))


def test_betas_whose_signal_does_not_fall_are_refused() -> None:
    scheduler = DDPMScheduler(trained_betas=[1e-9, 1e-9, 0.5])  # 1 - 1e-9 is 1 in float32
    with pytest.raises(ValueError, match=r"^model\.source: .*do not make a noise schedule"):
        diffusion_objective(scheduler, LossConfig())
