"""Runs with compiled steps."""

from pathlib import Path

import pytest

from finetune.models import family_named
from finetune.models.compiled import repeated_blocks
from finetune.models.family import ModelSource
from tests.support.families import TINY_FAMILIES, save_tiny_pipeline
from tests.support.runs import (
    Options,
    assert_same_end,
    completed,
    kill_after_three_steps,
    metrics,
    refused,
)

SQUARE: Options = {"data.max_aspect": 1.0, "train.steps": 5, "checkpoint.every": 2, "validation.fraction": 0.3}
SQUARE |= {"validation.every": 2, "optim.lr": 1e-4}


@pytest.mark.slow
def test_compiled_steps_train_as_others_do_and_resume_exactly(tiny_run: Options, tmp_path: Path) -> None:
    options = tiny_run | SQUARE
    completed("lora", options | {"output.folder": tmp_path / "eager"}, tmp_path / "log_eager")
    blocks = options | {"train.compile": "blocks"}
    completed("lora", blocks | {"output.folder": tmp_path / "blocks"}, tmp_path / "log")
    cut = blocks | {"output.folder": tmp_path / "cut"}
    kill_after_three_steps("lora", cut, tmp_path / "log_cut")
    completed("lora", cut, tmp_path / "log_again")
    assert_same_end(tmp_path / "blocks", tmp_path / "cut")
    first, *later = metrics(tmp_path / "eager")
    own, *rest = metrics(tmp_path / "blocks")
    for key in ("loss", "grad_norm"):  # of the whole network: a part without a gradient would show
        assert own[key] == pytest.approx(first[key], rel=1e-4)
    # Adam amplifies the rounding of gradients that are almost zero.
    assert [row["loss"] for row in rest] == pytest.approx([row["loss"] for row in later], rel=0.05)


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_every_familys_denoiser_has_known_blocks(name: str, tmp_path: Path) -> None:
    family = family_named(name)
    denoiser = family.denoiser(ModelSource(str(save_tiny_pipeline(name, tmp_path / "model"))))
    blocks = repeated_blocks(family, denoiser)
    assert len(blocks) >= 2 and all(any(True for _ in block.parameters()) for block in blocks)


def test_a_missing_compiler_is_named_before_a_model_loads(tiny_run: Options, tmp_path: Path) -> None:
    options = tiny_run | {"train.compile": "blocks", "output.folder": tmp_path / "out"}
    environment = {"CXX": "no-such-compiler"}
    refused("lora", options, tmp_path / "log", "no C++ compiler (no-such-compiler)", environment=environment)
