"""The model in finetune/assets: format, samplers, pipelines, and quality."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image

from finetune.demo.run import BASE_MODEL
from tools.base_model import ATTRIBUTION
from tools.colours import main_colour
from tools.icons import read_icons

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from quality.concepts import COLOURED, Trial, autoencoder, captions, colours_right, pairs
from quality.drawing import SAMPLERS, as_image, draw, load
from quality.icons import known_icons

ROOT = Path(__file__).parents[2]
ICONS = ROOT.parent / "shared" / "data" / "icons"
STYLE = "flat emoji, soft shapes"
NAMED = ("green heart", "blue heart", "yellow heart", "orange heart", "red heart", "red apple")
"""Concepts of training in that style, each with its colour first."""
YELLOW, BLUE = (f"{colour} heart, {STYLE}" for colour in ("yellow", "blue"))
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def model() -> StableDiffusionPipeline:
    return load(BASE_MODEL)


def test_the_files_are_the_real_classes_in_half_precision_and_small() -> None:
    index = json.loads((BASE_MODEL / "model_index.json").read_text())
    classes = {name: value[1] for name, value in index.items() if isinstance(value, list)}
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert classes | {"scheduler": "any"} == {
        "feature_extractor": None,
        "image_encoder": None,
        "safety_checker": None,
        "scheduler": "any",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
    }
    for file in BASE_MODEL.rglob("*.safetensors"):
        assert {weight.dtype for weight in safetensors.torch.load_file(file).values()} == {torch.float16}, file
    files = [path for path in BASE_MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 32 * MEGABYTE
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors", ".txt"}  # merges.txt


def test_the_scheduler_does_not_clip_latents(model: StableDiffusionPipeline) -> None:
    assert model.scheduler.config.clip_sample is False


def test_the_wheel_holds_the_model_and_the_templates_of_reports(tmp_path: Path) -> None:
    source = tmp_path / "source"  # setuptools writes into the folder that it builds from
    for package in ("finetune", "recipes", "datasets_prep"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, source]
    subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=300)
    packed = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    shipped = [path.relative_to(ROOT).as_posix() for path in BASE_MODEL.rglob("*") if path.is_file()]
    templates = [path for package in ("finetune", "datasets_prep") for path in (ROOT / package).glob("*/templates/*")]
    shipped += [path.relative_to(ROOT).as_posix() for path in templates]
    assert templates and set(shipped) <= set(packed)


def test_the_attribution_is_the_one_that_names_every_set() -> None:
    assert (BASE_MODEL / "ATTRIBUTION.md").read_bytes() == ATTRIBUTION.read_bytes()  # tests/unit/tools checks its rows


def main_colours(drawn: np.ndarray) -> list[str | None]:
    return [main_colour(as_image(image)) for image in drawn]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_things_in_their_colours(model: StableDiffusionPipeline, sampler: str) -> None:
    shipped = model.scheduler
    model.scheduler = SAMPLERS[sampler].from_config(shipped.config)
    drawn = draw(model, [f"{name}, {STYLE}" for name in NAMED], list(range(len(NAMED))), 3.0, 20)
    model.scheduler = shipped
    right = [name.split()[0] == colour for name, colour in zip(NAMED, main_colours(drawn), strict=True)]
    assert sum(right) >= 3, main_colours(drawn)  # of six; with every sampler the same ones are wrong
    corners = drawn[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.median(corners) > 0.95  # on white


def test_guidance_negative_prompt_steps_and_seed_all_count(model: StableDiffusionPipeline) -> None:
    def one(**changes: Any) -> np.ndarray:
        options: dict[str, Any] = {"guidance_scale": 3.0, "num_inference_steps": 8, "output_type": "np"} | changes
        seed = options.pop("seed", 0)
        return model(YELLOW, generator=torch.Generator().manual_seed(seed), **options).images[0]

    first = one()
    assert np.array_equal(first, one())
    for change in (
        {"guidance_scale": 6.0},
        {"negative_prompt": "solid icon, heavy"},
        {"num_inference_steps": 12},
        {"seed": 1},
    ):
        assert np.abs(one(**change) - first).mean() > 1e-3, change


def test_image_to_image_keeps_the_image_as_far_as_strength_says(model: StableDiffusionPipeline) -> None:
    pipeline = StableDiffusionImg2ImgPipeline(**model.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    start = draw(model, [YELLOW], [2], 3.0, 20)[0]

    def changed(strength: float) -> np.ndarray:
        options: dict[str, Any] = {"num_inference_steps": 20, "guidance_scale": 3.0, "output_type": "np"}
        noise = torch.Generator().manual_seed(1)
        return pipeline(BLUE, as_image(start), strength, generator=noise, **options).images[0]

    little, much = changed(0.2), changed(1.0)
    assert np.abs(little - start).mean() < np.abs(much - start).mean()
    assert main_colours(much[None]) == ["blue"]


def test_inpainting_draws_inside_the_mask_alone(model: StableDiffusionPipeline) -> None:
    pipeline = StableDiffusionInpaintPipeline(**model.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    start = draw(model, [YELLOW], [0], 3.0, 20)[0]
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    options: dict[str, Any] = {"num_inference_steps": 20, "guidance_scale": 3.0, "output_type": "np"}
    drawn = pipeline(
        BLUE,
        as_image(start),
        Image.fromarray(mask),
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
        **options,
    ).images[0]
    moved = np.abs(drawn - start).mean(-1)
    assert moved[:, 36:].mean() > 3 * moved[:, :28].mean()


def test_colours_compose_with_things_that_the_data_shows_in_others(model: StableDiffusionPipeline) -> None:
    drawn = draw(model, COLOURED, list(range(len(COLOURED))), 3.0, 20)
    assert colours_right(COLOURED, drawn) >= 0.25  # of 12 prompts; the card has the figure of 30 steps


@pytest.mark.slow
@pytest.mark.skipif(not ICONS.exists(), reason="needs ../shared/data/icons, of which it draws some and held-out ones")
def test_captions_and_held_out_pairs_are_drawn_and_the_autoencoder_keeps_icons(model: StableDiffusionPipeline) -> None:
    trial = Trial(model, known_icons(ICONS), read_icons(ICONS), num=80, steps=20, guidance=3.0)
    figures = dict(autoencoder(trial)) | dict(captions(trial)) | dict(pairs(trial))
    assert figures["vae psnr, mean of styles"]["db"] > 26
    assert figures["captions by shape, of 40"]["top_5"] >= 0.6
    assert figures["pairs, concept by shape, drawn"]["top_5"] >= 0.3  # .1 by chance
    assert figures["pairs, style, drawn"]["top_5"] >= 0.6 < figures["pairs, style, true icons"]["top_5"]
