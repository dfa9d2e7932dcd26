import re
import shutil
from pathlib import Path

import pytest

from finetune.config.parse.command_line import parse
from finetune.config.recipes import LoRATrainConfig
from finetune.run.checkpoint import newest_checkpoint
from finetune.run.resume import rising_rate
from finetune.run_folder.resume_source import refuse_no_checkpoint

VERSION_0_1 = Path(__file__).parents[2] / "assets" / "checkpoint_v0_1"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (2, 4):
        shutil.copytree(VERSION_0_1, tmp_path / "run" / "checkpoints" / f"step_{step:06d}")
    for name in ("export/run.safetensors", "whole/model_index.json"):
        (tmp_path / "run" / name).parent.mkdir()
        (tmp_path / "run" / name).touch()
    shutil.copy(tmp_path / "run" / "export" / "run.safetensors", tmp_path / "lora.safetensors")
    (tmp_path / "empty").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("export/run.safetensors", ("exported model", "fuse_lora", "step_000004", "OUT/checkpoints/")),
        ("export", ("exported model", "fuse_lora", "step_000004")),
        ("../lora.safetensors", ("exported model", "fuse_lora")),
        ("whole", ("exported model", "--model.source", "step_000004")),
        (".", ("not a checkpoint itself", "step_000004")),
        ("checkpoints", ("not a checkpoint itself", "step_000004")),
        ("checkpoints/step_000009", ("is missing", "step_000004")),
        ("../empty", ("no manifest.json",)),
    ],
)
def test_another_path_is_told_what_it_is_and_what_resume_takes(given: str, words: tuple[str, ...], run: Path) -> None:
    with pytest.raises(ValueError, match=r"^resume: ") as raised:
        refuse_no_checkpoint(str(run / given))
    assert [word for word in words if word not in str(raised.value)] == []


def test_checkpoints_and_words_are_taken(run: Path) -> None:
    for given in ("auto", "never", str(run / "checkpoints" / "step_000002")):
        refuse_no_checkpoint(given)


def test_where_no_checkpoint_is_intact_each_is_listed_with_the_reason(run: Path) -> None:
    (run / "checkpoints" / "step_000004" / "optimizer.pt").unlink()
    (run / "checkpoints" / "step_000002" / "state.json").write_text("{}")
    warnings: list[str] = []
    with pytest.raises(ValueError, match="no intact checkpoint") as raised:
        newest_checkpoint(run / "checkpoints", warnings.append)
    assert re.search(r"step_000004/optimizer.pt is missing(.|\n)*step_000002/state.json is damaged", str(raised.value))
    assert warnings == []


@pytest.mark.parametrize(
    ("schedule", "steps", "step", "is_said"),
    [("cosine", 8, 4, True), ("linear", 8, 3, True), ("cosine", 4, 2, False), ("constant", 8, 4, False)],
)
def test_a_rate_that_goes_up_again_is_said(schedule: str, steps: int, step: int, is_said: bool, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train:\n  steps: 4\n")
    given = {"model.source": "m", "data.folder": "d", "output.folder": "o", "optim.schedule": schedule}
    given |= {"train.steps": str(steps), "optim.lr": "0.01", "optim.warmup_steps": "0"}
    config = parse(LoRATrainConfig, [part for key, v in given.items() for part in (f"--{key}", v)], program="r")
    found = rising_rate(config, tmp_path / "config.yaml", step)
    assert len(found) == is_said
    if schedule == "cosine" and is_said:
        assert "step 4 had 0.00146, the next one has 0.005" in found[0]


def test_a_schedule_that_was_exchanged_is_named_with_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train:\n  steps: 4\noptim:\n  schedule: cosine\n")
    given = ["--model.source", "m", "--data.folder", "d", "--output.folder", "o", "--optim.schedule", "linear"]
    config = parse(LoRATrainConfig, [*given, "--train.steps", "8", "--optim.lr", "0.01"], program="r")
    (found,) = rising_rate(config, tmp_path / "config.yaml", 4)
    assert "cosine was laid out for 4 steps and is now linear for 8" in found and "step 4 had 0.00146" in found
