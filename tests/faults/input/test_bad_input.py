import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.damage import change_json
from tests.support.runs import Options, refused

Change = Callable[[Path], Options | None]
"""Make something wrong in a scratch folder that holds `model` and `pictures`, and return the options for it."""

LISTING = "pictures/metadata.jsonl"
PICTURE = "pictures/0003.png"
INDEX = "model/model_index.json"


def option(key: str, value: object) -> Change:
    return lambda place: {key: value}


def at(key: str, name: str, content: bytes | None = None) -> Change:
    def change(place: Path) -> Options:
        if content is not None:
            (place / name).write_bytes(content)
        return {key: place / name}

    return change


def without(*names: str) -> Change:
    def change(place: Path) -> None:
        for path in (place / name for name in names):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    return change


def edited(name: str, edit: Callable[[bytes], bytes]) -> Change:
    def change(place: Path) -> None:
        (place / name).write_bytes(edit((place / name).read_bytes()))

    return change


def with_entries(name: str, **entries: object) -> Change:
    return lambda place: change_json(place / name, **entries)


UNET = "model/unet/diffusion_pytorch_model.safetensors"
VOCABULARY = [f"model/tokenizer/{file}" for file in ("vocab.json", "merges.txt", "tokenizer.json")]
GUESS = with_entries("model/scheduler/scheduler_config.json", prediction_type="guess")
SDXL, FLUX = (with_entries(INDEX, _class_name=name) for name in ("StableDiffusionXLPipeline", "FluxPipeline"))

CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no folder": (at("data.folder", "nowhere"), ("data.folder", "nowhere")),
    "empty folder": (at("data.folder", "empty"), ("data.folder", "no images")),
    "no captions": (without(LISTING), ("data.folder", "captions")),
    "one caption missing": (
        edited(LISTING, lambda text: text.replace(b'"text"', b'"other"', 1)),
        ("0000.png", "without a caption"),
    ),
    "not an image": (edited(PICTURE, lambda _: b"this is not an image"), ("0003.png",)),
    "cut image": (edited(PICTURE, lambda data: data[:-200]), ("0003.png",)),
    "listed image is absent": (without(PICTURE), ("0003.png", "do not exist")),
    "nothing left to train on": (option("validation.fraction", 0.999999), ("validation.fraction",)),
    "unknown family": (with_entries(INDEX, _class_name="KolorsPipeline"), ("model.source", "KolorsPipeline", "sdxl")),
    "SDXL by name alone": (SDXL, ("model.source", "tokenizer_2")),
    "FLUX.1 by name alone": (FLUX, ("model.source", "PNDMScheduler")),
    "single file": (at("model.source", "model.safetensors", b"weights"), ("model.source", "single file")),
    "no model": (at("model.source", "nowhere"), ("model.source", "nowhere")),
    "no pipeline": (at("model.source", "pictures"), ("model.source", "model_index.json")),
    "cut weights": (edited(UNET, lambda data: data[: len(data) // 2]), ("model.source",)),
    "no vae": (without("model/vae"), ("model.source", "vae")),
    "no tokenizer": (without("model/tokenizer"), ("model.source", "tokenizer")),
    "no vocabulary": (without(*VOCABULARY), ("model.source", "tokenizer")),
    "odd prediction": (GUESS, ("model.source",)),
    "no scheduler": (without("model/scheduler"), ("model.source", "scheduler")),
    "inpainting": (with_entries("model/unet/config.json", in_channels=9), ("model.source",)),
    "unknown optimizer": (option("optim.name", "adamw9bit"), ("optim.name", "Did you mean adamw8bit")),
    "bucket step beside the VAE's": (option("data.bucket_step", 1), ("data.bucket_step", "multiple of 4")),
    "layers that are not there": (option("lora.targets", ("to_z",)), ("lora.targets", "to_z")),
    "warm-up longer than the run": (option("optim.warmup_steps", 99), ("optim.warmup_steps",)),
    "another prediction": (option("loss.prediction_type", "v_prediction"), ("loss.prediction_type", "epsilon")),
    "no such option": (option("optim.lerning_rate", 1), ("optim.lerning_rate", "no such option")),
    "a secret": (option("tracking.run_name", "hf_" + "a" * 34), ("tracking.run_name", "token")),
}


@pytest.fixture
def scratch(small_run: Options, tmp_path: Path) -> Options:
    shutil.copytree(Path(str(small_run["model.source"])), tmp_path / "model")
    shutil.copytree(Path(str(small_run["data.folder"])), tmp_path / "pictures")
    return small_run | {
        "model.source": tmp_path / "model",
        "data.folder": tmp_path / "pictures",
        "output.folder": tmp_path / "out",
    }


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_sentence(name: str, scratch: Options, tmp_path: Path) -> None:
    change, words = CASES[name]
    (tmp_path / "empty").mkdir()
    options = scratch | (change(tmp_path) or {})
    before = {path: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert "step 1/" not in refused("lora", options, tmp_path / "log", *words)
    assert {path: path.read_bytes() for path in before} == before


def test_half_precision_without_a_gpu_is_refused(small_run: Options, tmp_path: Path) -> None:
    options, environment = small_run | {"output.folder": tmp_path / "out"}, {"ACCELERATE_MIXED_PRECISION": "fp16"}
    refused("lora", options, tmp_path / "log", "mixed_precision", "fp16", environment=environment)
