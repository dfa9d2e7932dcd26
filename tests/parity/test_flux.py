"""Traits of FLUX.1 alone; tests/contract has those of every family."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

from finetune.config.loss import LossConfig
from finetune.models.families.flux import MAX_TOKENS, SAMPLING_GUIDANCE, Flux
from finetune.models.family import ModelSource, Network
from finetune.models.prompts import Prompts
from finetune.objectives.flow_matching import FlowMatching, ResolutionShift
from tests.contract.calls import arguments_of
from tests.faults.kills.injection import WhenOpened
from tests.support.damage import change_json
from tests.support.runs import PREVIEWS, Options, refused, start
from tests.tiny.components import components_of
from tests.tiny.flux import build_pipeline, save_pipeline

FAMILY = Flux()


def encoded(pipeline: FluxPipeline, *captions: str) -> Prompts:
    components = components_of(pipeline)
    with torch.no_grad():
        return FAMILY.encode_prompts(components.text_encoders, FAMILY.tokenize(components.tokenizers, captions))


def test_captions_beyond_512_tokens_are_named() -> None:
    tokenizers = components_of(build_pipeline()).tokenizers
    fits, cut = "a " * 255, "a " * 256
    assert len(tokenizers[1](fits).input_ids) == MAX_TOKENS - 1
    assert len(tokenizers[1](cut).input_ids) == MAX_TOKENS + 1
    assert FAMILY.cut_captions(tokenizers, ["", fits, cut]) == [cut]


def test_the_guidance_of_training_is_another_than_that_of_pictures() -> None:
    """So the contract's comparison with the pipeline would notice a mix-up."""
    pipeline = build_pipeline()
    noisy, prompts = torch.randn(1, 16, 4, 4), encoded(pipeline, "a red circle")
    with arguments_of(pipeline.transformer) as calls:
        Network(FAMILY, pipeline.transformer)(noisy, torch.tensor([300.0]), prompts)
        pipeline(**FAMILY.pipeline_prompts(components_of(pipeline), "", ""), height=32, width=32, num_inference_steps=1)
    assert [kwargs["guidance"].tolist() for _, kwargs, _ in calls] == [[1.0], [SAMPLING_GUIDANCE]]


def test_the_shift_grows_with_the_picture_as_in_the_pipeline() -> None:
    """The pipeline's own numbers for 512 and 1024 pixels. They are 32 x 32 and 64 x 64 patches."""
    pipeline = build_pipeline()
    assert FAMILY.pixel_multiple(pipeline.vae) == 4  # two pixels a latent, two latents a patch
    objective = FAMILY.objective(pipeline.scheduler, LossConfig())
    assert isinstance(objective, FlowMatching) and isinstance(objective.shift, ResolutionShift)
    for side, patches in ((64, 1024), (128, 4096)):
        mu = 0.5 + (1.15 - 0.5) / (4096 - 256) * (patches - 256)
        assert objective.shift.at_size((side, side)) == pytest.approx(math.exp(mu))
    schnell = FAMILY.objective(build_pipeline(guidance=False).scheduler, LossConfig())
    assert isinstance(schnell, FlowMatching) and schnell.shift == 1.0


@pytest.mark.parametrize(
    ("pipeline_name", "word"), [("FluxFillPipeline", "Fill"), ("FluxKontextPipeline", "Kontext"), ("Odd", "flux")]
)
def test_checkpoints_of_its_kin_are_refused_with_the_reason(tmp_path: Path, pipeline_name: str, word: str) -> None:
    folder = save_pipeline(tmp_path)
    change_json(folder / "model_index.json", _class_name=pipeline_name)
    with pytest.raises(ValueError, match=word):
        FAMILY.load(ModelSource(str(folder)))


@pytest.fixture(scope="module")
def flux_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("models") / "flux")


@dataclass(frozen=True)
class HideWhileOpened:
    """Move folders of the model away during training. From the opening of metrics.jsonl until the last preview."""

    model: Path
    names: tuple[str, ...]

    def __call__(self) -> None:
        WhenOpened("metrics.jsonl", self.hide)()
        WhenOpened("step_000001_grid.png", self.show)()

    def hide(self) -> None:
        for name in self.names:
            (self.model / name).rename(self.model / f"hidden_{name}")

    def show(self) -> None:
        for name in self.names:
            (self.model / f"hidden_{name}").rename(self.model / name)


@pytest.fixture
def flux_run(flux_model: Path, tiny_run: Options) -> Options:
    return tiny_run | {"model.source": flux_model, "model.family": "flux", "output.dtype": "fp32"}


@pytest.mark.slow
def test_text_encoders_are_read_before_training_and_never_again_for_a_preview(
    flux_run: Options, flux_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(flux_model, tmp_path / "model")
    out, hidden = tmp_path / "out", HideWhileOpened(model, ("text_encoder", "text_encoder_2"))
    options = flux_run | PREVIEWS | {"model.source": model, "train.steps": 1, "preview.size": 32}
    ended = start("lora", options, tmp_path / "log", prepare=hidden).wait()
    assert ended.exit_code == 0, ended.output
    assert {path.name[:11] for path in (out / "previews").glob("*_seed0.png")} == {"step_000000", "step_000001"}


def test_negative_prompts_are_refused(flux_run: Options, tmp_path: Path) -> None:
    refused("lora", flux_run | {"preview.negative_prompt": "blurry"}, tmp_path / "log", "preview.negative_prompt")
