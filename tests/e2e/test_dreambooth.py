import json
import signal
from pathlib import Path

import pytest
import safetensors
from PIL import Image

from tests.support.jobs import completed_job
from tests.support.runs import (
    SUBJECT,
    WITH_TEXT_ENCODER,
    Options,
    assert_close_metrics,
    completed,
    final_state,
    refused,
    start,
    without_lora,
)
from tests.tiny.sd import save_pictures


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_pictures(tmp_path_factory.mktemp("subject") / "pictures", count=5, size=64)
    (folder / "metadata.jsonl").unlink()
    return folder


@pytest.fixture
def options(tiny_run: Options, subject: Path, tmp_path: Path) -> Options:
    own: Options = {"data.folder": subject, "cache.folder": tmp_path / "cache", "prior.weight": 0.5, "train.steps": 2}
    own |= {"prior.num_pictures": 7, "prior.batch_size": 2, "prior.num_inference_steps": 2}
    return tiny_run | SUBJECT | own


def class_pictures(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.glob("class_pictures/*/*.png")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pictures", "prediction"])
def test_two_processes_make_the_images_of_one_and_take_its_steps(kind: str, options: Options, tmp_path: Path) -> None:
    """By predictions, adapters are switched off inside DistributedDataParallel. The text encoder's are among them."""
    if kind == "prediction":
        del options["prior.num_pictures"]
        options |= WITH_TEXT_ENCODER | {"prior.kind": kind, "train.steps": 3}
    options |= {"train.batch_size": 4}
    one = options | {"output.folder": tmp_path / "one", "cache.folder": tmp_path / "cache_one"}
    ended = completed("dreambooth", one, tmp_path / "log")
    assert ("50.0% of the samples are of the instance" in ended.output) == (kind == "pictures")
    two = options | {"output.folder": tmp_path / "two", "cache.folder": tmp_path / "cache_two"}
    completed_job("dreambooth", two, tmp_path / "logs")
    pictures = class_pictures(tmp_path / "cache_one")
    assert len(pictures) == (7 if kind == "pictures" else 0)
    assert class_pictures(tmp_path / "cache_two") == pictures
    assert_close_metrics(tmp_path / "one", tmp_path / "two", "loss", "grad_norm", rel=1e-3)


@pytest.mark.slow
def test_a_kill_leaves_whole_images_and_the_same_command_makes_the_rest(options: Options, tmp_path: Path) -> None:
    options |= {"prior.num_pictures": 12, "prior.num_inference_steps": 20}
    undisturbed = options | {"cache.folder": tmp_path / "other", "output.folder": tmp_path / "other_out"}
    completed("dreambooth", undisturbed, tmp_path / "log")
    expected = class_pictures(tmp_path / "other")

    for number, exit_code, least in ((signal.SIGINT, 75, 1), (signal.SIGKILL, -9, 4)):
        running = start("dreambooth", options, tmp_path / "log")
        running.wait_until(lambda: len(class_pictures(tmp_path / "cache")) >= least)  # noqa: B023
        running.signal(number)
        ended = running.wait()
        assert ended.exit_code == exit_code, ended.output
        assert "Traceback" not in ended.output
        made = class_pictures(tmp_path / "cache")
        assert len(made) < 12 and made.items() <= expected.items()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/class_pictures/*/*.png")}
    completed("dreambooth", options, tmp_path / "log")
    assert class_pictures(tmp_path / "cache") == expected
    whole = [path for path in times if int(path.stem) // 2 * 2 + 1 < len(times)]
    assert whole and all(path.stat().st_mtime_ns == times[path] for path in whole)
    assert final_state(tmp_path / "out").keys() == final_state(tmp_path / "other_out").keys()


def test_own_class_images_and_own_captions_are_used(options: Options, pictures: Path, tmp_path: Path) -> None:
    options = {key: value for key, value in options.items() if key != "instance.prompt"}
    options |= {"data.folder": pictures, "instance.captions": True, "prior.folder": pictures, "train.steps": 1}
    ended = completed("dreambooth", options, tmp_path / "log")
    assert "14 instance and 14 class images" in ended.output
    card = json.loads((tmp_path / "out" / "data_card.json").read_text())
    assert card["num_pictures"] == 28
    with safetensors.safe_open(tmp_path / "out" / "export" / "out.safetensors", framework="pt") as exported:
        metadata = exported.metadata()
    assert (metadata["ss_num_train_images"], metadata["ss_num_reg_images"]) == ("14", "14")
    assert class_pictures(tmp_path / "cache") == {}
    options |= {"prior.folder": tmp_path / "absent", "output.folder": tmp_path / "no"}
    refused("dreambooth", options, tmp_path / "log", "prior.folder: there is no folder")


def test_a_full_run_with_images_exports_a_pipeline(options: Options, tmp_path: Path) -> None:
    own = {"method": "full", "optim.lr": 1e-4, "train.steps": 1, "instance.prompt": "a circle zzz"}
    completed("dreambooth", without_lora(options) | own, tmp_path / "log")
    assert (tmp_path / "out" / "export" / "model_index.json").exists()
    assert Image.open(next(tmp_path.glob("cache/class_pictures/*/000000.png"))).size == (64, 64)
