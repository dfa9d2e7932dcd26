"""Mistakes of users: one sentence, exit code 1, nothing lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import assert_refused
from tests.support.runs import Options, run

Change = Callable[[Path], Options]
"""Makes something wrong in a scratch folder that holds `model` and `pictures`, and returns the options for it."""


def no_folder(place: Path) -> Options:
    return {"data.folder": place / "nowhere"}


def empty_folder(place: Path) -> Options:
    (place / "empty").mkdir()
    return {"data.folder": place / "empty"}


def no_captions(place: Path) -> Options:
    (place / "pictures" / "metadata.jsonl").unlink()
    return {}


def one_caption_missing(place: Path) -> Options:
    listing = place / "pictures" / "metadata.jsonl"
    listing.write_text(listing.read_text().replace('"text"', '"other"', 1))
    return {}


def no_picture(place: Path) -> Options:
    (place / "pictures" / "0003.png").write_bytes(b"this is not an image")
    return {}


def cut_picture(place: Path) -> Options:
    picture = place / "pictures" / "0003.png"
    picture.write_bytes(picture.read_bytes()[:-200])
    return {}


def listed_but_absent(place: Path) -> Options:
    (place / "pictures" / "0003.png").unlink()
    return {}


def all_held_out(place: Path) -> Options:
    return {"validation.fraction": 0.999999}


def other_family(name: str) -> Change:
    def change(place: Path) -> Options:
        rewrite_index(place, _class_name=name)
        return {}

    return change


def rewrite_index(place: Path, **entries: object) -> None:
    index = place / "model" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | entries))


def single_file(place: Path) -> Options:
    (place / "model.safetensors").write_bytes(b"weights")
    return {"model.source": place / "model.safetensors"}


def no_model(place: Path) -> Options:
    return {"model.source": place / "nowhere"}


def no_pipeline(place: Path) -> Options:
    return {"model.source": place / "pictures"}


def cut_weights(place: Path) -> Options:
    weights = place / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return {}


def no_vae(place: Path) -> Options:
    shutil.rmtree(place / "model" / "vae")
    return {}


def no_tokenizer(place: Path) -> Options:
    shutil.rmtree(place / "model" / "tokenizer")
    return {}


def no_vocabulary(place: Path) -> Options:
    for file in ("vocab.json", "merges.txt", "tokenizer.json"):
        (place / "model" / "tokenizer" / file).unlink(missing_ok=True)
    return {}


def odd_prediction(place: Path) -> Options:
    config = place / "model" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "guess"}))
    return {}


def no_scheduler(place: Path) -> Options:
    shutil.rmtree(place / "model" / "scheduler")
    return {}


def inpainting(place: Path) -> Options:
    config = place / "model" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    return {}


def option(key: str, value: object) -> Change:
    return lambda place: {key: value}


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no folder": (no_folder, ("data.folder", "nowhere")),
    "empty folder": (empty_folder, ("data.folder", "no images")),
    "no captions": (no_captions, ("data.folder", "captions")),
    "one caption missing": (one_caption_missing, ("0000.png", "without a caption")),
    "not an image": (no_picture, ("0003.png",)),
    "truncated image": (cut_picture, ("0003.png",)),
    "listed image is absent": (listed_but_absent, ("0003.png", "do not exist")),
    "nothing left to train on": (all_held_out, ("validation.fraction",)),
    "unknown family": (other_family("KolorsPipeline"), ("model.source", "KolorsPipeline", "sdxl")),
    "SDXL by name alone": (other_family("StableDiffusionXLPipeline"), ("model.source", "tokenizer_2")),
    "FLUX.1 by name alone": (other_family("FluxPipeline"), ("model.source", "PNDMScheduler")),
    "single file": (single_file, ("model.source", "single file")),
    "no model": (no_model, ("model.source", "nowhere")),
    "no pipeline": (no_pipeline, ("model.source", "model_index.json")),
    "cut weights": (cut_weights, ("model.source",)),
    "no vae": (no_vae, ("model.source", "vae")),
    "no tokenizer": (no_tokenizer, ("model.source", "tokenizer")),
    "no vocabulary": (no_vocabulary, ("model.source", "tokenizer")),
    "odd prediction": (odd_prediction, ("model.source",)),
    "no scheduler": (no_scheduler, ("model.source", "scheduler")),
    "inpainting": (inpainting, ("model.source",)),
    "unknown optimizer": (option("optim.name", "adamw9bit"), ("optim.name", "Did you mean adamw8bit")),
    "bucket step beside the VAE's": (option("data.bucket_step", 1), ("data.bucket_step", "multiple of 2")),
    "layers that are not there": (option("lora.targets", ("to_z",)), ("lora.targets", "to_z")),
    "warm-up longer than the run": (option("optim.warmup_steps", 99), ("optim.warmup_steps",)),
    "another prediction": (option("loss.prediction_type", "v_prediction"), ("loss.prediction_type", "epsilon")),
    "no such option": (option("optim.lerning_rate", 1), ("optim.lerning_rate", "no such option")),
    "a secret": (option("tracking.run_name", "hf_" + "a" * 34), ("tracking.run_name", "token")),
}


@pytest.fixture
def scratch(small_run: Options, tmp_path: Path) -> Options:
    """Options with a model and images of the test's own."""
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
    options = scratch | change(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    ended = run("lora", options, tmp_path / "log")
    assert_refused(ended.exit_code, ended.output, *words)
    assert "step 1/" not in ended.output
    assert {path: path.read_bytes() for path in before} == before


def test_half_precision_without_a_gpu_is_refused(small_run: Options, tmp_path: Path) -> None:
    options = small_run | {"output.folder": tmp_path / "out"}
    ended = run("lora", options, tmp_path / "log", environment={"ACCELERATE_MIXED_PRECISION": "fp16"})
    assert_refused(ended.exit_code, ended.output, "mixed_precision", "fp16")
