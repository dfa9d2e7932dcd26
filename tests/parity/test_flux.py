"""FLUX.1 trains as its own pipeline computes; exports reload unchanged."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import FluxPipeline
from torch import Tensor

from finetune.config.loss import LossConfig
from finetune.models.families.flux import MAX_TOKENS, SAMPLING_GUIDANCE, TRAINING_GUIDANCE, Flux, packed, unpacked
from finetune.models.family import Components, ModelSource, Network
from finetune.objectives.diffusion import denoising_loss
from finetune.objectives.flow_matching import FlowMatching, ResolutionShift
from tests.faults.kills.injection import WhenOpened
from tests.support.runs import Options, run, start
from tests.tiny.flux import build_pipeline, save_pipeline

FAMILY = Flux()
PROMPTS = ("", "a red circle on white paper", "Ein ROTER  Kreis, 12 (x)", "blue cross, " * 40)


@pytest.fixture(scope="module", params=["dev", "schnell"])
def pipeline(request: pytest.FixtureRequest) -> FluxPipeline:
    return build_pipeline(guidance=request.param == "dev")


def components_of(pipeline: FluxPipeline) -> Components:
    return Components(
        pipeline.transformer,
        pipeline.vae,
        (pipeline.text_encoder, pipeline.text_encoder_2),
        (pipeline.tokenizer, pipeline.tokenizer_2),
        pipeline.scheduler,
    )


def encoded(pipeline: FluxPipeline, *captions: str) -> dict[str, Tensor]:
    components = components_of(pipeline)
    with torch.no_grad():
        return FAMILY.encode_prompts(components.text_encoders, FAMILY.tokenize(components.tokenizers, captions))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_encoded_as_the_pipeline_does(pipeline: FluxPipeline, prompt: str) -> None:
    with torch.no_grad():
        embeddings, pooled, _ = pipeline.encode_prompt(prompt, device=torch.device("cpu"))
    ours = encoded(pipeline, prompt)
    assert ours.keys() == {"embeddings", "pooled"}
    assert torch.equal(ours["embeddings"], embeddings)
    assert torch.equal(ours["pooled"], pooled)


def test_captions_beyond_512_tokens_are_named() -> None:
    tokenizers = components_of(build_pipeline()).tokenizers
    fits, cut = "a " * 255, "a " * 256
    assert len(tokenizers[1](fits).input_ids) == MAX_TOKENS - 1
    assert len(tokenizers[1](cut).input_ids) == MAX_TOKENS + 1
    assert FAMILY.cut_captions(tokenizers, ["", fits, cut]) == [cut]


def test_trained_clip_inside_the_network_gives_the_same_prediction(pipeline: FluxPipeline) -> None:
    components = components_of(pipeline)
    captions = ["a red circle", "a blue cross on grey paper"]
    noisy, t = torch.randn(2, 16, 8, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([10.0, 900.0])
    network = Network(FAMILY, pipeline.transformer, FAMILY.trained_text_encoders(components.text_encoders))
    assert list(network.text_encoders) == [pipeline.text_encoder]
    with torch.no_grad():
        tokens = FAMILY.encode_frozen(components.text_encoders, FAMILY.tokenize(components.tokenizers, captions))
        inside = network(noisy, t, tokens)
        outside = network(noisy, t, encoded(pipeline, *captions))
    assert torch.equal(inside, outside)


def test_packing_is_the_pipelines() -> None:
    latents = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 2, 16, 8, 12))
    assert torch.equal(unpacked(packed(latents), 4, 6), latents)


def test_the_prediction_in_training_is_what_the_pipeline_computes(pipeline: FluxPipeline) -> None:
    """The pipeline gets the guidance of training, which changes predictions."""
    calls: list[tuple[dict[str, Any], Tensor]] = []
    handle = pipeline.transformer.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((dict(kwargs), output[0].clone())), with_kwargs=True
    )
    prompt, size = "a blue triangle on pink paper", {"height": 32, "width": 48}
    generator = torch.Generator().manual_seed(0)
    settings: dict[str, Any] = {"num_inference_steps": 3, "output_type": "latent", "guidance_scale": TRAINING_GUIDANCE}
    pipeline(prompt, generator=generator, **settings, **size)
    handle.remove()
    assert len(calls) == 3
    network, prompts = Network(FAMILY, pipeline.transformer), encoded(pipeline, prompt)
    for given, expected in calls:
        noisy = unpacked(given["hidden_states"], 8, 12)
        with torch.no_grad():
            found = network(noisy, given["timestep"] * 1000, prompts)
        assert found.shape == (1, 16, 16, 24)
        torch.testing.assert_close(packed(found), expected, rtol=0, atol=1e-6)


def test_the_guidance_of_training_is_another_than_that_of_pictures() -> None:
    """So the test above would notice a mix-up."""
    pipeline = build_pipeline()
    noisy, prompts = torch.randn(1, 16, 4, 4), encoded(pipeline, "a red circle")
    seen = []
    handle = pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["guidance"]), with_kwargs=True
    )
    Network(FAMILY, pipeline.transformer)(noisy, torch.tensor([300.0]), prompts)
    pipeline(**FAMILY.pipeline_prompts(components_of(pipeline), "", ""), height=32, width=32, num_inference_steps=1)
    handle.remove()
    assert [value.tolist() for value in seen] == [[1.0], [SAMPLING_GUIDANCE]]


def test_latents_are_shifted_and_scaled_as_the_decoder_takes_them(pipeline: FluxPipeline) -> None:
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = FAMILY.encode_images(pipeline.vae, pixels, [torch.Generator().manual_seed(1)])
        drawn = pipeline.vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(1))
    shift, scale = pipeline.vae.config.shift_factor, pipeline.vae.config.scaling_factor
    assert latents.shape == (1, 16, 16, 16)
    torch.testing.assert_close(latents / scale + shift, drawn)  # what the pipeline does before decoding
    assert FAMILY.pixel_multiple(pipeline.vae) == 4  # two pixels a latent, two latents a patch


def test_the_shift_grows_with_the_picture_as_in_the_pipeline() -> None:
    """The pipeline's own numbers for 512 and 1024 pixels. They are 32 x 32 and 64 x 64 patches."""
    objective = FAMILY.objective(build_pipeline().scheduler, LossConfig())
    assert isinstance(objective, FlowMatching) and isinstance(objective.shift, ResolutionShift)
    for side, patches in ((64, 1024), (128, 4096)):
        mu = 0.5 + (1.15 - 0.5) / (4096 - 256) * (patches - 256)
        assert objective.shift.of((side, side)) == pytest.approx(2.718281828459045**mu)
    schnell = FAMILY.objective(build_pipeline(guidance=False).scheduler, LossConfig())
    assert isinstance(schnell, FlowMatching) and schnell.shift == 1.0


def test_the_loss_is_that_of_rectified_flow(pipeline: FluxPipeline) -> None:
    """The transformer is called by hand.

    || v(x_t) - (epsilon - x_0) ||^2 with x_t = (1 - s) x_0 + s epsilon.
    """
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 16, 4, 8, generator=generator) for _ in range(2))
    s, prompts = torch.tensor([0.25, 0.8]), encoded(pipeline, "a red circle", "")
    network = Network(FAMILY, pipeline.transformer)
    objective = FAMILY.objective(pipeline.scheduler, LossConfig())
    with torch.no_grad():
        loss = denoising_loss(objective, lambda x, t: network(x, t, prompts), clean, noise, s * 1000)
        for number in range(2):
            noisy = (1 - s[number]) * clean[number] + s[number] * noise[number]
            ids = torch.tensor([[0, row, column] for row in range(2) for column in range(4)]).float()
            patches = torch.stack(
                [noisy[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].reshape(-1) for r in range(2) for c in range(4)]
            )
            velocity = pipeline.transformer(
                patches[None],
                prompts["embeddings"][number : number + 1],
                prompts["pooled"][number : number + 1],
                s[number : number + 1],
                ids,
                torch.zeros(512, 3),
                torch.ones(1) if pipeline.transformer.config.guidance_embeds else None,
            ).sample[0]
            wanted = noise[number] - clean[number]
            expected = torch.stack(
                [wanted[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].reshape(-1) for r in range(2) for c in range(4)]
            )
            assert loss[number].item() == pytest.approx((velocity - expected).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("pipeline_name", "word"), [("FluxFillPipeline", "Fill"), ("FluxKontextPipeline", "Kontext"), ("Odd", "flux")]
)
def test_checkpoints_of_its_kin_are_refused_with_the_reason(tmp_path: Path, pipeline_name: str, word: str) -> None:
    folder = save_pipeline(tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline_name}))
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


def exported_differences(output: str) -> list[float]:
    return [float(line.split(" by ")[1].split()[0]) for line in output.splitlines() if "its output differs by" in line]


def test_both_layouts_of_a_lora_with_clip_reload(flux_run: Options, tmp_path: Path) -> None:
    ended = run(
        "lora", flux_run | {"train.steps": 1, "train.text_encoder": True, "cache.text": False}, tmp_path / "log"
    )
    assert ended.exit_code == 0, ended.output
    differences = exported_differences(ended.output)
    assert len(differences) == 2 and max(differences) < 1e-5
    trained = safetensors.torch.load_file(tmp_path / "out" / "export" / "out.safetensors")
    assert any(key.startswith("lora_te1_") for key in trained)
    assert not any(key.startswith("lora_te3_") for key in trained)


def test_text_encoders_are_read_before_training_and_never_again_for_a_preview(
    flux_run: Options, flux_model: Path, tmp_path: Path
) -> None:
    """They are hidden from the first step until the last preview."""
    model = shutil.copytree(flux_model, tmp_path / "model")
    out, hidden = tmp_path / "out", HideWhileOpened(model, ("text_encoder", "text_encoder_2"))
    shown = {"preview.prompts": ("a red circle",), "preview.num_inference_steps": 1, "preview.size": 32}
    options = flux_run | {"model.source": model, "train.steps": 1} | shown
    ended = start("lora", options, tmp_path / "log", prepare=hidden).wait()
    assert ended.exit_code == 0, ended.output
    assert {path.name[:11] for path in (out / "previews").glob("*_seed0.png")} == {"step_000000", "step_000001"}


def test_dreambooth_keeps_the_class_by_prediction(flux_run: Options, tmp_path: Path) -> None:
    options = flux_run | {
        "train.steps": 1,
        "instance.prompt": "a photo of sks circle",
        "prior.prompt": "a circle",
        "prior.kind": "prediction",
        "prior.num_pictures": 2,
        "prior.num_inference_steps": 1,
    }
    ended = run("dreambooth", options, tmp_path / "log")
    assert ended.exit_code == 0, ended.output


def test_negative_prompts_are_refused(flux_run: Options, tmp_path: Path) -> None:
    ended = run("lora", flux_run | {"preview.negative_prompt": "blurry"}, tmp_path / "log")
    assert ended.exit_code != 0 and "preview.negative_prompt" in ended.output
