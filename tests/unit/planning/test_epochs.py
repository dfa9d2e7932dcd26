from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.config.parse.dump import dump, with_options
from finetune.config.parse.recipe_options import parse_recipe
from finetune.config.recipes import LoRATrainConfig
from finetune.planning.epochs import with_counted_steps, with_kept_steps
from finetune.planning.proposal import with_proposals
from tests.unit.planning.test_advice import manifest

NEEDED = ("--model.source", "model", "--data.folder", "images")


def settled(
    folder: Path, *words: str, num: int = 30, processes: int = 1, say: Callable[[str], None] = print
) -> LoRATrainConfig:
    """Return a command's config with its steps."""
    arguments = [*NEEDED, "--output.folder", str(folder), *words]
    config, given = parse_recipe(LoRATrainConfig, arguments, "recipes.lora", say)
    config, line = with_kept_steps(config, given)
    if line is not None:
        say(line)
        return config
    return with_counted_steps(config, given, manifest(num, repeats=2), processes, arguments, say)


@pytest.mark.parametrize(
    ("epochs", "processes", "words", "steps"),
    [
        ("10", 1, (), 600),
        ("10", 2, (), 300),
        ("0.5", 1, (), 30),
        ("1", 1, ("--train.batch_size", "7"), 9),  # 60 / 7
        ("7", 1, ("--train.batch_size", "7"), 60),
        ("1", 2, ("--train.batch_size", "4", "--train.accumulation", "3"), 3),  # 60 / 24
        ("1", 1, ("--validation.fraction", "0.1"), 54),
    ],
)
def test_epochs_are_the_fewest_steps_that_see_the_images_so_often(
    tmp_path: Path, epochs: str, processes: int, words: tuple[str, ...], steps: int
) -> None:
    lines: list[str] = []
    config = settled(tmp_path, "--train.epochs", epochs, *words, processes=processes, say=lines.append)
    assert config.train.steps == steps and f"train.epochs {epochs}: {steps} steps; " in lines[-1]


def test_a_flag_replaces_the_length_of_a_file_and_says_so(tmp_path: Path) -> None:
    lines: list[str] = []
    config = settled(tmp_path, "--config", "sd15_lora_style", "--train.epochs", "40", say=lines.append)
    assert config.train.steps > 100 and "40 of the command replaces train.steps" in lines[0]
    (tmp_path / "own.yaml").write_text("train: {epochs: 3}\n")
    config = settled(tmp_path, "--config", str(tmp_path / "own.yaml"), "--train.steps", "7", say=lines.append)
    assert (config.train.steps, config.train.epochs) == (7, None)
    assert lines[-1] == "train.steps: 7 of the command replaces train.epochs 3 of the file."


def test_both_lengths_are_refused_with_what_each_would_mean(tmp_path: Path) -> None:
    words = ("--train.epochs", "10", "--train.steps", "500")
    with pytest.raises(ValueError, match=r"epochs: got 10, which is 600 steps .*500, which ends the run after 500"):
        settled(tmp_path, *words)
    (tmp_path / "own.yaml").write_text("train: {epochs: 10, steps: 500}\n")
    with pytest.raises(ValueError, match="Remove one of both"):
        settled(tmp_path, "--config", str(tmp_path / "own.yaml"))


def test_options_that_do_not_fit_the_counted_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"warmup_steps: got 80, expected fewer than train.steps 60.*epochs 1 is 60"):
        settled(tmp_path, "--train.epochs", "1", "--optim.warmup_steps", "80")
    assert settled(tmp_path, "--train.epochs", "100", "--optim.warmup_steps", "1500").train.steps == 6000
    lines: list[str] = []
    preset = ("--config", "sd15_lora_style", "--train.epochs", "1", "--train.batch_size", "2")
    assert settled(tmp_path, *preset, say=lines.append).optim.warmup_steps < 30
    assert any("the same share of the run" in line for line in lines)


def test_a_run_that_is_continued_keeps_its_steps_on_any_number_of_processes(tmp_path: Path) -> None:
    first = settled(tmp_path, "--train.epochs", "10")
    (tmp_path / "config.yaml").write_text(dump(first))
    assert settled(tmp_path, "--train.epochs", "10", processes=2).train.steps == 300  # nothing was saved yet
    (tmp_path / "checkpoints" / "step_000100").mkdir(parents=True)
    lines: list[str] = []
    assert settled(tmp_path, "--train.epochs", "10", num=99, processes=2, say=lines.append) == first
    assert lines == ["train.epochs 10: 600 steps, kept from the run."]
    saved = ("--config", str(tmp_path / "config.yaml"))
    assert settled(tmp_path, *saved, processes=4) == first
    assert settled(tmp_path, "--train.epochs", "20").train.steps == 1200
    assert settled(tmp_path / "other", *saved).train == first.train
    with pytest.raises(ValueError, match=r"300 steps .*beside train.steps 600"):
        settled(tmp_path / "other", *saved, processes=2)


def test_a_goal_proposes_no_steps_beside_epochs(tmp_path: Path) -> None:
    config = settled(tmp_path, "--train.epochs", "4", "--goal", "style")
    proposed, lines = with_proposals(config, ("train.epochs", "goal"), (), manifest(30), 1)
    assert proposed.train.steps == 240 and proposed.optim.warmup_steps == 12
    assert any("train.steps" in line and "given" in line for line in lines)
    assert with_options(proposed, {"train.steps": 240}) == proposed
