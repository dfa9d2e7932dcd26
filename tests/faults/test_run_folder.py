import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from finetune.run_folder.checkpoints import complete_steps
from tests.faults.conftest import STEPS, contents
from tests.faults.kills.injection import without_privileges
from tests.support.runs import (
    Ended,
    Options,
    assert_refused,
    assert_same_end,
    completed,
    differing,
    final_state,
    flags,
    losses,
    metrics,
    refused,
    run,
    start,
)

ROOT = Path(__file__).parents[2]

FRESH = """
import sys
from finetune.launch import run_recipe
from recipes.lora import RECIPE
try:
    run_recipe(RECIPE, sys.argv[1:], "recipes.lora")
finally:
    print("torch was imported" if "torch" in sys.modules else "no torch")
"""


def run_fresh(options: Options) -> Ended:
    """Run the recipe in a new interpreter; report whether torch was imported."""
    command = [sys.executable, "-c", FRESH, *flags(options)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return Ended(ended.returncode, ended.stdout + ended.stderr)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/out", "/dev/null/out", "dangling"])
def test_a_place_that_is_no_folder_is_refused_before_torch_is_imported(
    place: str, small_run: Options, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "dangling").symlink_to("nowhere/below")
    ended = run_fresh(small_run | {"output.folder": tmp_path / place})
    assert_refused(ended, "output.folder", str(tmp_path / place), "no torch")
    assert len(re.findall("^error: ", ended.output, re.MULTILINE)) == 1
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("option", ["model.source", "data.folder"])
def test_what_ends_a_run_before_its_first_step_is_in_its_log(option: str, small_run: Options, tmp_path: Path) -> None:
    options = small_run | {"output.folder": tmp_path / "out", option: tmp_path / "absent"}
    refused("lora", options, tmp_path / "log", option)
    log = (tmp_path / "out" / "run.log").read_text()
    assert log.startswith("=== ") and f"error: {option}: " in log and str(tmp_path / "absent") in log


@pytest.mark.parametrize("place", ["", "out"])
def test_a_read_only_place_is_refused(place: str, small_run: Options, tmp_path: Path) -> None:
    parent = tmp_path / "read_only"
    parent.mkdir(mode=0o555)
    options = small_run | {"output.folder": parent / place}
    words = ("output.folder", "Permission denied")
    refused("lora", options, tmp_path / "log", *words, prepare=without_privileges)


def test_a_second_writer_is_refused_and_the_first_unharmed(small_run: Options, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = small_run | {"output.folder": out, "checkpoint.keep": 9, "checkpoint.every": 1}
    first = start("lora", options, tmp_path / "log")
    first.wait_until(lambda: len(metrics(out)) >= 1)
    assert first.process.pid is not None
    first.signal(signal.SIGSTOP)  # so that it is surely still there
    second = start("lora", options, tmp_path / "second").wait(5)
    other_options = start("lora", options | {"optim.lr": 1e-5, "resume": "never"}, tmp_path / "third").wait(5)
    first.signal(signal.SIGCONT)
    for other in (second, other_options):
        assert_refused(other, "in use by process", str(first.process.pid))
    ended = first.wait()
    assert ended.exit_code == 0, ended.output
    assert_same_end(out, straight)


def test_a_finished_run_says_so_without_torch_and_changes_nothing(finished: Options, tmp_path: Path) -> None:
    before, log = contents(tmp_path / "out"), (tmp_path / "out" / "run.log").read_bytes()
    shutil.copytree(tmp_path / "out" / "export", tmp_path / "out" / ".export.replaced")  # as a kill may leave it
    ended = run_fresh(finished)
    assert ended.exit_code == 0, ended.output
    assert "is finished (6 steps)" in ended.output and "no torch" in ended.output
    assert contents(tmp_path / "out") == before and (tmp_path / "out" / "run.log").read_bytes() == log


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optim.lr": 1e-5}, ("other options", "optim.lr 0.01 -> 1e-05")),
        ({"train.steps": 3}, ("other options", "train.steps 6 -> 3")),
        ({"lora.targets": ("to_q",)}, ("lora.targets to_q to_v -> to_q",)),
        ({"resume": "never"}, ("resume", "never")),
        ({"train.steps": 9, "optim.name": "adafactor"}, ("optim.name: got adafactor, expected adamw",)),
        ({"train.steps": 9, "lora.rank": 2}, ("lora.rank: got 2, expected 4",)),
    ],
)
def test_a_finished_run_is_not_overwritten(
    change: Options, words: tuple[str, ...], finished: Options, tmp_path: Path
) -> None:
    kept = ("metrics.jsonl", "run.json", "checkpoints", "export", "config.yaml", "data_card.json", "report.html")
    before = contents(tmp_path / "out")
    refused("lora", finished | change, tmp_path / "log", "output.folder", *words)
    after = contents(tmp_path / "out")
    assert [path for path, data in before.items() if {*kept} & {*path.parts} and after[path] != data] == []


def test_a_damaged_export_is_made_again_and_what_is_beside_it_is_left(
    finished: Options, straight: Path, tmp_path: Path
) -> None:
    export = tmp_path / "out" / "export"
    (export / "notes.txt").write_text("mine")
    (export / "out.safetensors").write_bytes((export / "out.safetensors").read_bytes()[:-3])
    (export / "pytorch_lora_weights.safetensors").unlink()
    ended = completed("lora", finished, tmp_path / "log")
    assert ended.output.count("made again from the last checkpoint") == 1
    for name in ("out.safetensors", "pytorch_lora_weights.safetensors"):
        assert differing(load_file(export / name), load_file(straight / "export" / name)) == []
    assert (export / "notes.txt").read_text() == "mine"
    assert_same_end(tmp_path / "out", straight)
    assert "is finished" in run("lora", finished, tmp_path / "log").output


def test_more_steps_continue_a_finished_run(finished: Options, small_run: Options, tmp_path: Path) -> None:
    longer, out = tmp_path / "longer", tmp_path / "out"
    completed("lora", small_run | {"output.folder": longer, "train.steps": STEPS + 3}, tmp_path / "log")
    completed("lora", finished | {"train.steps": STEPS + 3}, tmp_path / "log")
    assert_same_end(longer, out)
    assert json.loads((out / "run.json").read_text())["steps"] == STEPS + 3


@pytest.mark.parametrize("content", ["", '{"steps": "many"}'])
def test_a_damaged_status_is_named_and_written_again(
    content: str, finished: Options, straight: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "run.json").write_text(content)
    ended = completed("lora", finished, tmp_path / "log")
    assert ended.output.count("run.json is damaged. The run continues from its last checkpoint") == 1
    assert json.loads((tmp_path / "out" / "run.json").read_text())["steps"] == STEPS
    assert_same_end(tmp_path / "out", straight)


def test_a_finished_run_without_checkpoints_is_not_started_over(finished: Options, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.rmtree(out / "checkpoints")
    before = losses(out)
    refused("lora", finished | {"train.steps": STEPS + 3}, tmp_path / "log", "checkpoints are gone")
    assert losses(out) == before


def test_cut_metrics_are_counted_and_the_run_continues(interrupted: Options, straight: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-1000])
    left = len(file.read_bytes().splitlines()) - 1
    ended = completed("lora", interrupted, tmp_path / "log")
    assert ended.output.count("metrics.jsonl was altered") == 1
    assert differing(final_state(straight), final_state(tmp_path / "out")) == []
    assert losses(tmp_path / "out") == losses(straight)[:left] + losses(straight)[3:]


def test_a_folder_that_is_deleted_while_the_run_is_going_is_not_made_again(small_run: Options, tmp_path: Path) -> None:
    out = tmp_path / "out"
    running = start("lora", small_run | {"output.folder": out, "train.steps": 500}, tmp_path / "log")
    running.wait_until(lambda: len(metrics(out)) >= 1)
    running.signal(signal.SIGSTOP)
    out.rename(tmp_path / "moved")
    running.signal(signal.SIGCONT)
    assert_refused(running.wait(), "output.folder", "deleted, moved or replaced")
    assert not out.exists()


def test_output_in_the_images_is_refused_before_anything_is_written(small_run: Options, tmp_path: Path) -> None:
    images = shutil.copytree(Path(str(small_run["data.folder"])), tmp_path / "images")
    before = contents(images)
    ended = run_fresh(small_run | {"data.folder": images, "output.folder": images / "out"})
    assert_refused(ended, "output.folder", "is in data.folder", "no torch")
    assert contents(images) == before and not (images / "out").exists()


def test_resuming_from_a_path_branches_off_and_the_same_command_goes_on(
    small_run: Options, straight: Path, tmp_path: Path
) -> None:
    out, source = tmp_path / "branch", straight / "checkpoints" / "step_000002"
    options = small_run | {"output.folder": out, "resume": source}
    running = start("lora", options | {"checkpoint.every": 1}, tmp_path / "log")
    running.wait_until(lambda: len(complete_steps(out / "checkpoints")) >= 2)
    running.signal(signal.SIGTERM)
    ended = running.wait()
    assert ended.exit_code == 75, ended.output
    ended = completed("lora", options, tmp_path / "log")
    assert f"Resuming from {out}" in ended.output
    assert differing(final_state(straight), final_state(out)) == []
    assert losses(out) == losses(straight)[1:]


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("out/checkpoints/step_000002", ("step_000002", "step_000004")),
        ("out/checkpoints/step_000099", ("step_000099", "missing")),
        ("out/checkpoints", ("not a checkpoint itself", "step_000004")),
        ("damaged", ("optimizer.pt", "damaged")),
        ("other", ("other", "step_000004")),
    ],
)
def test_a_path_that_cannot_be_resumed_from_is_refused(
    checkpoint: str, words: tuple[str, ...], interrupted: Options, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for name in ("damaged", "other"):
        shutil.copytree(out / "checkpoints" / "step_000004", tmp_path / name)
    (tmp_path / "damaged" / "optimizer.pt").write_bytes(b"")
    before = contents(out)
    refused("lora", interrupted | {"resume": tmp_path / checkpoint}, tmp_path / "log", "resume", *words)
    assert contents(out) == before


def test_a_new_start_on_an_existing_run_is_refused(interrupted: Options, tmp_path: Path) -> None:
    before = contents(tmp_path / "out")
    refused("lora", interrupted | {"resume": "never"}, tmp_path / "log", "resume", "never")
    assert contents(tmp_path / "out") == before


def test_another_precision_or_batch_is_said_at_resuming(interrupted: Options, tmp_path: Path) -> None:
    options = interrupted | {"train.batch_size": 2}
    ended = completed("lora", options, tmp_path / "log", environment={"ACCELERATE_MIXED_PRECISION": "bf16"})
    for text in ("train.batch_size 1 -> 2", "mixed_precision no -> bf16", "global batch size 1 -> 2"):
        assert text in ended.output
