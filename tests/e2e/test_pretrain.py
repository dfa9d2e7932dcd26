import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image, ImageDraw

from tests.support.jobs import ends, start_job
from tests.support.launch import succeeded
from tests.support.runs import BF16, Options, completed, metrics, refused
from tests.tiny.sd import save_pictures
from tools.base_model import BaseModelConfig, train

SMALL = {
    "data.resolution": 32,
    "data.bucket_step": 32,
    "data.max_aspect": 1.0,
    "architecture.vae_channels": (16, 32),
    "architecture.unet_channels": (32, 64),
    "architecture.head_width": 16,
    "architecture.text_width": 32,
    "train.batch_size": 16,
    "optim.lr": 2e-3,
    "validation.fraction": 0.1,
    "validation.every": 50,
    "checkpoint.every": 50,
    "tracking.names": (),
}
STYLES = ("line icon", "bold line icon", "flat emoji", "solid icon", "thin line icon")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on 64 images for a minute or two. The images have 32 pixels; one core suffices."""
    folder = tmp_path_factory.mktemp("pretrain")
    options = SMALL | {
        "data.folder": save_pictures(folder / "pictures", count=64, size=32),
        "output.folder": folder / "out",
        "cache.folder": folder / "cache",
        "autoencoder.steps": 150,
        "autoencoder.lr": 4e-3,
        "train.steps": 150,
        "loss.weighting": "none",
        "preview.prompts": ("a red circle on white paper",),
        "preview.num_inference_steps": 4,
    }
    ended = completed("pretrain", options, folder / "log")
    assert "own loss" not in ended.output
    return folder


def exported(folder: Path) -> StableDiffusionPipeline:
    place = folder / "out" / "export"
    pipeline = StableDiffusionPipeline.from_pretrained(place, safety_checker=None, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.slow
def test_both_stages_lower_their_loss_on_images_that_were_held_out(pretrained: Path) -> None:
    for stage, first, last in (("out/autoencoder", 0.8, 0.3), ("out", 0.9, 0.5)):
        rows = [row for row in metrics(pretrained / stage) if "validation/loss" in row]
        assert rows[0]["validation/base_loss"] > first and rows[-1]["validation/loss"] < last, (stage, rows)


@pytest.mark.slow
def test_the_latents_of_the_trained_vae_are_scaled_to_a_deviation_of_one(pretrained: Path) -> None:
    pipeline = exported(pretrained)
    pictures = [np.asarray(Image.open(path)) for path in sorted((pretrained / "pictures").glob("*.png"))]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.1)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [None, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_the_model_draws_finite_images_with_several_samplers(pretrained: Path, scheduler: type | None) -> None:
    pipeline = exported(pretrained)
    if scheduler:
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    settings = {"num_inference_steps": 8, "guidance_scale": 2.0, "output_type": "np"}
    drawn = pipeline("a red circle on white paper", generator=torch.Generator().manual_seed(0), **settings).images
    assert np.isfinite(drawn).all() and drawn.std() > 0.02


@pytest.mark.slow
def test_the_same_command_again_finds_every_stage_finished(pretrained: Path) -> None:
    out = pretrained / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    ended = completed("pretrain", {"config": out / "config.yaml"}, pretrained / "log")
    assert "is finished (150 steps)" in ended.output
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    stage = json.loads((out / "autoencoder" / "run.json").read_text())
    assert (stage["status"], stage["steps"]) == ("finished", 150)
    assert "export/vae/diffusion_pytorch_model.safetensors" in stage["files"]


@pytest.mark.slow
def test_another_architecture_is_refused_where_a_model_was_made_already(pretrained: Path) -> None:
    options = SMALL | {"data.folder": pretrained / "pictures", "output.folder": pretrained / "out"}
    options |= {"architecture.unet_channels": (32, 96)}
    refused("pretrain", options, pretrained / "log", "architecture.unet_channels 32 64 -> 32 96")


def short(folder: Path) -> Options:
    return SMALL | {
        "output.folder": folder / "out",
        "cache.folder": folder / "cache",
        "autoencoder.steps": 2,
        "train.steps": 2,
        "train.batch_size": 4,
        "optim.lr": 1e-3,
    }


def test_images_without_captions_make_an_unconditional_model(tmp_path: Path) -> None:
    pictures = save_pictures(tmp_path / "pictures", count=8, size=32)
    (pictures / "metadata.jsonl").unlink()
    completed("pretrain", short(tmp_path) | {"data.folder": pictures, "data.captions": "none"}, tmp_path / "log")
    assert len(exported(tmp_path).tokenizer) == 514  # bytes, start and end: there was no word to learn


def test_the_names_of_folders_are_classes(tmp_path: Path) -> None:
    pictures = save_pictures(tmp_path / "pictures", count=8, size=32)
    (pictures / "metadata.jsonl").unlink()
    for number, path in enumerate(sorted(pictures.glob("*.png"))):
        target = pictures / ("fishing_boat" if number % 2 else "lorry")
        target.mkdir(exist_ok=True)
        path.rename(target / path.name)
    completed("pretrain", short(tmp_path) | {"data.folder": pictures, "data.captions": "folder"}, tmp_path / "log")
    assert exported(tmp_path).tokenizer.tokenize("fishing boat lorry") == ["fishing</w>", "boat</w>", "lorry</w>"]


def write_icons(folder: Path, num_concepts: int) -> None:
    folder.mkdir()
    dice, rows = random.Random(0), []
    for number in range(num_concepts):
        for style in STYLES:
            image = Image.new("RGB", (64, 64), "white")
            top, left = dice.randint(4, 24), dice.randint(4, 24)
            ImageDraw.Draw(image).rectangle((left, top, left + 32, top + 32), fill="black")
            encoded = io.BytesIO()
            image.save(encoded, "PNG")
            row = {"image": {"bytes": encoded.getvalue(), "path": None}, "concept": f"thing {number}"}
            rows.append(row | {"style": style, "set": style})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00000.parquet")


@pytest.mark.slow
def test_one_command_trains_all_parts_and_continues_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time it starts processes that have all imports."""
    icons, work = tmp_path / "icons", tmp_path / "work"
    write_icons(icons, 30)
    steps = {"autoencoder_steps": 2, "steps": 2, "last_steps": 2, "batch_size": 4}
    given = {"icons": icons, "work": work} | steps
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    assert "in pieces" in succeeded(["-m", "tools.base_model", *words])
    stages = {name: work / name / "export" for name in ("tokenizer", "autoencoder", "denoiser", "last")}
    unets = [
        safetensors.torch.load_file(stages[name] / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
        for name in ("autoencoder", "denoiser", "last")
    ]
    assert not unets[0].equal(unets[1]) and not unets[1].equal(unets[2])
    pieces = sorted(path for path in (work / "pieces").rglob("*") if path.is_file())
    assert max(path.stat().st_size for path in pieces) < 16 * 10**6
    for file in (path for path in stages["last"].rglob("*") if path.is_file()):
        parts = [path for path in pieces if path.name.partition(".part")[0] == file.name]
        there = [path for path in parts if path.parent.name == file.parent.name or file.parent == stages["last"]]
        assert b"".join(path.read_bytes() for path in there) == file.read_bytes(), file
    before = {path: path.stat().st_mtime_ns for path in (work / "last" / "export").rglob("*")}
    said: list[str] = []

    def start(module: str, *words: object, **environment: str) -> None:
        options = words if module == "recipes.pretrain" else words[words.index("recipes.pretrain") + 1 :]
        given = dict(zip((str(name).removeprefix("--") for name in options[::2]), options[1::2], strict=True))
        num = 1 if module == "recipes.pretrain" else 2
        environment |= BF16 if num == 2 else {}
        found = ends(start_job("pretrain", given, tmp_path / "logs", num=num, environment=environment))
        assert all(ended.exit_code == 0 for ended in found), found
        said.append(found[0].output)

    monkeypatch.setattr("tools.base_model.start", start)
    train(BaseModelConfig(icons, work, **steps))
    assert len(said) == 4 and all("is finished" in each for each in said[1:])
    assert before == {path: path.stat().st_mtime_ns for path in (work / "last" / "export").rglob("*")}
