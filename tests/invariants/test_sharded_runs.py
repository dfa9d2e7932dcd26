"""Sharded runs (FSDP2) beside runs of one process."""

import json
import signal
from pathlib import Path

import pytest

from finetune.run.checkpoint import load_checkpoint
from finetune.run_folder.checkpoints import complete_steps
from tests.support.jobs import FSDP, completed_job, ends, start_job
from tests.support.runs import (
    PREVIEWS,
    SUBJECT,
    TINY,
    WITH_TEXT_ENCODER,
    Options,
    assert_close_metrics,
    completed,
    distance,
    final_state,
    metrics,
    without_lora,
)
from tests.tiny.sd import save_pictures

STEPS = 6
TWO_PASSES: Options = {"train.accumulation": 2, "train.batch_size": 2, "train.gradient_checkpointing": True}
SHOWN = ("step", "loss", "lr", "grad_norm", "images_seen", "validation/loss")


@pytest.fixture(scope="module")
def options(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Options:
    """Options of the runs, without output folder. The images have two shapes."""
    folder = save_pictures(tmp_path_factory.mktemp("images"), count=10, size=64, aspects=(1.0, 1.6))
    common: Options = {"model.source": tiny_model, "data.folder": folder, "cache.folder": shared_cache}
    common |= {"train.steps": STEPS, "train.batch_size": 4, "train.ema_decay": 0.9}
    common |= {"validation.every": 3, "validation.fraction": 0.3}
    return TINY | common | {"optim.lr": 1e-3}


def assert_same_training(folder: Path, other: Path) -> None:
    """Expect the same weights within 1e-5, and the same metrics."""
    found, wanted = final_state(folder), final_state(other)
    assert distance(found, wanted, "trained.") < 1e-5
    assert distance(found, wanted, "ema.") < 1e-5
    assert_close_metrics(folder, other, *SHOWN, rel=1e-4)


@pytest.fixture(scope="module")
def full(options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that trains all weights."""
    folder = tmp_path_factory.mktemp("full") / "out"
    completed("full", without_lora(options) | {"output.folder": folder}, folder.with_suffix(".log"))
    return folder


def test_all_weights_train_as_on_one_process(options: Options, full: Path, tmp_path: Path) -> None:
    """With previews, whose drawing is an exchange too."""
    chosen = without_lora(options) | PREVIEWS | {"output.folder": tmp_path / "out"}
    output = completed_job("full", chosen, tmp_path / "logs", environment=FSDP)
    assert_same_training(tmp_path / "out", full)
    assert "reloaded, its output differs by" in output
    names = {path.name for path in (tmp_path / "out" / "checkpoints" / "step_000006").iterdir()}
    assert {"trained-00001-of-00002.safetensors", "optimizer-00002-of-00002.pt", "manifest.json"} <= names
    assert len(list((tmp_path / "out" / "previews").glob("step_*_prompt*.png"))) > 1


def test_a_run_continues_on_other_numbers_of_processes(options: Options, full: Path, tmp_path: Path) -> None:
    chosen = without_lora(options) | {"output.folder": tmp_path / "out"}
    for num, steps in ((1, 1), (2, 3), (4, 4), (1, STEPS)):
        environment = FSDP if num > 1 else None
        completed_job("full", chosen | {"train.steps": steps}, tmp_path / "logs", num=num, environment=environment)
    assert distance(final_state(tmp_path / "out"), final_state(full), "trained.") < 1e-5
    assert [row["step"] for row in metrics(tmp_path / "out")] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("lora", WITH_TEXT_ENCODER | TWO_PASSES),
        ("dreambooth", SUBJECT | {"prior.kind": "prediction"}),
        (
            "textual_inversion",
            {"tokens.names": ("<ink>",), "tokens.init": ("red",), "data.template": "{caption} in <ink>"},
        ),
    ],
)
def test_each_recipe_trains_as_on_one_process(recipe: str, changes: Options, options: Options, tmp_path: Path) -> None:
    """Text encoders and tokens are whole on every process."""
    chosen = (without_lora(options) if recipe == "textual_inversion" else options) | changes
    completed(recipe, chosen | {"output.folder": tmp_path / "one"}, tmp_path / "log")
    completed_job(recipe, chosen | {"output.folder": tmp_path / "two"}, tmp_path / "logs", environment=FSDP)
    assert_same_training(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_checkpoints_are_scored_and_the_best_is_exported(options: Options, tmp_path: Path) -> None:
    """The scores are those of one process, up to rounding."""
    scored: Options = {"evaluate.every": 3, "evaluate.max_share": 1.0, "evaluate.num_inference_steps": 1}
    scored |= {"evaluate.strengths": ()}
    scored |= {"evaluate.grid.num_prompts": 2, "evaluate.grid.num_seeds": 2}
    chosen = options | PREVIEWS | scored | {"train.ema_decay": "none"}
    completed("lora", chosen | {"output.folder": tmp_path / "one"}, tmp_path / "log")
    completed_job("lora", chosen | {"output.folder": tmp_path / "two"}, tmp_path / "logs", environment=FSDP)
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "scores.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [row["step"] for row in two] == [row["step"] for row in one] == [3, 6]
    for ours, theirs in zip(two, one, strict=True):
        assert ours["scores"]["drift"]["value"] == pytest.approx(theirs["scores"]["drift"]["value"], abs=0.02)
    assert json.loads((tmp_path / "two" / "best.json").read_text())["exported_step"] in (3, 6)


def test_a_signal_saves_a_checkpoint_of_all_parts(options: Options, tmp_path: Path) -> None:
    chosen = without_lora(options) | {"output.folder": tmp_path / "out", "train.steps": 100_000, "train.batch_size": 2}
    running = start_job("full", chosen, tmp_path / "logs", environment=FSDP)
    running[0].wait_until(lambda: len(metrics(tmp_path / "out")) >= 3)
    running[1].signal(signal.SIGTERM)
    for ended in ends(running):
        assert ended.exit_code == 75, ended.output
        assert "Traceback" not in ended.output
    step, path = complete_steps(tmp_path / "out" / "checkpoints")[0]
    saved = load_checkpoint(path)
    assert saved.state["step"] == step
    assert saved.ema is not None and saved.ema.keys() == saved.trained.keys()
