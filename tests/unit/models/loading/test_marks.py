import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import EulerDiscreteScheduler, PNDMScheduler

from finetune.config.loss import LossConfig
from finetune.models.families.sdxl import StableDiffusionXL
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family, load_scheduler, scheduler_warnings
from finetune.objectives.diffusion import Diffusion
from tests.tiny.sdxl import build_pipeline

FAMILY = StableDiffusionXL()
KEYS = (
    "model.diffusion_model.out.0.bias",
    "first_stage_model.decoder.conv_in.bias",
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
    "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias",
)
"""Enough for a file of SDXL of which no part is loaded."""
V = {"modelspec.prediction_type": "v"}
EPSILON = {"modelspec.prediction_type": "epsilon"}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL's own configs, whose scheduler says epsilon."""
    folder = tmp_path_factory.mktemp("configs")
    pipeline: Any = build_pipeline()
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    index = {"_class_name": type(pipeline).__name__, "scheduler": ["diffusers", "EulerDiscreteScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_configs_are_proposed_that_say_what_the_file_predicts(tmp_path: Path, configs: Path) -> None:
    for keys, words in (((), "stabilityai/stable-diffusion-xl-base-1.0"), (("v_pred",), "Emanon14/NONAMEmix-Vpred")):
        source = replace(single_file(tmp_path, configs, *keys), config=None)
        with pytest.raises(ValueError, match=r"model\.config: missing") as caught:
            find_family(source)
        _, fetch, give = str(caught.value).splitlines()
        assert fetch.startswith(f"hf download {words} --include '*.json' --include '*.txt' --local-dir configs/")
        assert give == f"--model.source {source.location} --model.config {fetch.rpartition(' ')[2]}"


def single_file(
    folder: Path, configs: Path, *keys: str, metadata: dict[str, str] | None = None, option: str | None = None
) -> ModelSource:
    tensors = {key: torch.zeros(1) for key in KEYS} | {key: torch.zeros(0) for key in keys}
    safetensors.torch.save_file(tensors, folder / "noob.safetensors", metadata)
    return ModelSource(str(folder / "noob.safetensors"), config=configs, prediction_type=option)


def with_settings(configs: Path, folder: Path, **settings: Any) -> Path:
    (folder / "scheduler").mkdir(parents=True)
    file = "scheduler/scheduler_config.json"
    (folder / file).write_text(json.dumps(json.loads((configs / file).read_text()) | settings))
    (folder / "model_index.json").write_text((configs / "model_index.json").read_text())
    return folder


@pytest.mark.parametrize(
    ("keys", "metadata", "prediction", "zero"),
    [
        (("v_pred", "ztsnr"), None, "v_prediction", True),
        (("v_pred",), None, "v_prediction", False),
        ((), V, "v_prediction", False),
        ((), {"modelspec.prediction_type": "v_prediction"}, "v_prediction", False),
        ((), {"modelspec.predict_key": "v"}, "v_prediction", False),
        ((), {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, "v_prediction", True),
        ((), {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction", False),
        (("v_pred", "ztsnr"), V, "v_prediction", True),
        ((), EPSILON, "epsilon", False),
        ((), {"modelspec.prediction_type": "None"}, "epsilon", False),
        ((), None, "epsilon", False),
    ],
)
def test_marks_of_the_weights_decide_the_objective(
    keys: tuple[str, ...], metadata: dict[str, str] | None, prediction: str, zero: bool, configs: Path, tmp_path: Path
) -> None:
    source = single_file(tmp_path, configs, *keys, metadata=metadata)
    assert find_family(source) == "sdxl"
    scheduler = FAMILY.scheduler(source)
    assert type(scheduler) is EulerDiscreteScheduler
    objective = FAMILY.objective(scheduler, LossConfig())
    assert isinstance(objective, Diffusion)
    assert objective.prediction_type == objective.options.prediction_type == prediction
    assert objective.options.zero_terminal_snr == (objective.alphas_cumprod[-1] == 0) == zero
    drawn = FAMILY.sampling_scheduler(scheduler, objective.options)
    assert drawn.config.prediction_type == prediction and drawn.config.rescale_betas_zero_snr == zero
    assert drawn.config.timestep_spacing == ("trailing" if zero else "leading")
    warnings = scheduler_warnings(FAMILY, source)
    assert len(warnings) == (prediction != "epsilon")
    assert all("noob.safetensors trains as v_prediction" in text and "has epsilon" in text for text in warnings)


def test_a_mark_of_epsilon_goes_before_a_borrowed_scheduler_of_v_with_zero_terminal_snr(
    configs: Path, tmp_path: Path
) -> None:
    borrowed = with_settings(configs, tmp_path / "v", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    source = single_file(tmp_path, borrowed, metadata=EPSILON)
    objective = FAMILY.objective(FAMILY.scheduler(source), LossConfig())
    assert objective.options.prediction_type == "epsilon" and not objective.options.zero_terminal_snr
    assert len(scheduler_warnings(FAMILY, source)) == 1
    unmarked = FAMILY.scheduler(single_file(tmp_path, borrowed))
    assert FAMILY.objective(unmarked, LossConfig()).options.zero_terminal_snr


@pytest.mark.parametrize(
    ("keys", "metadata", "words"),
    [
        (("v_pred",), EPSILON, "contradicts itself: the key v_pred means v_prediction and modelspec.prediction_type"),
        (("ztsnr",), EPSILON, "contradicts itself: .* the key ztsnr means zero terminal SNR"),
        ((), V | {"modelspec.predict_key": "epsilon"}, "contradicts itself"),
        (("edm_vpred.sigma_max", "edm_vpred.sigma_min", "v_pred"), None, "holds edm_vpred.sigma_max: .*EDM"),
        (("edm_mean", "edm_std"), None, "holds edm_mean: .*EDM"),
        ((), {"modelspec.prediction_type": "rectified_flow"}, "rectified_flow, which is not a known objective"),
    ],
)
def test_marks_that_contradict_each_other_or_are_not_trained_are_refused(
    keys: tuple[str, ...], metadata: dict[str, str] | None, words: str, configs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"^model\.source: .*{words}"):
        FAMILY.scheduler(single_file(tmp_path, configs, *keys, metadata=metadata))


def test_an_option_settles_what_the_file_leaves_open_and_nothing_else(configs: Path, tmp_path: Path) -> None:
    source = single_file(tmp_path, configs, option="v_prediction")
    scheduler = FAMILY.scheduler(source)
    objective = FAMILY.objective(scheduler, LossConfig(prediction_type="v_prediction", zero_terminal_snr=True))
    assert objective.options.prediction_type == "v_prediction" and objective.options.zero_terminal_snr
    (warning,) = scheduler_warnings(FAMILY, source)
    assert "loss.prediction_type: noob.safetensors trains as v_prediction, as the option sets" in warning
    assert FAMILY.sampling_scheduler(scheduler, objective.options).config.prediction_type == "v_prediction"

    zero_alone = single_file(tmp_path, configs, "ztsnr")
    with pytest.raises(ValueError, match=r"\(the key ztsnr\), but not what they predict.*--loss\.prediction_type v"):
        FAMILY.objective(FAMILY.scheduler(zero_alone), LossConfig())
    settled = FAMILY.scheduler(single_file(tmp_path, configs, "ztsnr", option="v_prediction"))
    assert FAMILY.objective(settled, LossConfig()).options.zero_terminal_snr

    words = r"loss\.prediction_type: got epsilon, but the weights .* are marked v_prediction"
    with pytest.raises(ValueError, match=words):
        FAMILY.scheduler(single_file(tmp_path, configs, "v_pred", option="epsilon"))
    own = FAMILY.scheduler(ModelSource(str(configs), prediction_type="v_prediction"))
    with pytest.raises(ValueError, match=r"loss\.prediction_type: got v_prediction, but the checkpoint's scheduler"):
        FAMILY.objective(own, LossConfig(prediction_type="v_prediction"))


def test_a_zero_snr_schedule_of_the_scheduler_itself_is_the_same_as_the_option(configs: Path, tmp_path: Path) -> None:
    v = with_settings(configs, tmp_path / "v", prediction_type="v_prediction")
    zero = with_settings(v, tmp_path / "zero", rescale_betas_zero_snr=True)
    asked: Any = FAMILY.objective(load_scheduler(FAMILY, ModelSource(str(v))), LossConfig(zero_terminal_snr=True))
    own: Any = FAMILY.objective(load_scheduler(FAMILY, ModelSource(str(zero))), LossConfig())
    assert own.options == asked.options
    torch.testing.assert_close(own.alphas_cumprod, asked.alphas_cumprod, rtol=1e-4, atol=1e-9)
    assert own.alphas_cumprod[-1] == 0

    ignoring = PNDMScheduler.from_config(load_scheduler(FAMILY, ModelSource(str(zero))).config)
    own = FAMILY.objective(ignoring, LossConfig())
    assert own.alphas_cumprod[-1] == 0 and own.options.zero_terminal_snr
    assert FAMILY.sampling_scheduler(ignoring, own.options).config.rescale_betas_zero_snr
