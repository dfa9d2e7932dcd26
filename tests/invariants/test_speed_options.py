"""Runs that compute their steps in another way."""

from pathlib import Path

import pytest

from tests.support.runs import (
    Options,
    assert_same_end,
    completed,
    kill_after_three_steps,
    metrics,
    refused,
    without_lora,
)

SHORT: Options = {"train.steps": 5, "checkpoint.every": 2, "train.log_every": 1, "train.peak_tflops": 0.001}


def test_channels_last_trains_as_before_and_resumes_exactly(tiny_run: Options, tmp_path: Path) -> None:
    options = without_lora(tiny_run) | SHORT
    completed("full", options | {"output.folder": tmp_path / "usual"}, tmp_path / "log_usual")
    other = options | {"train.channels_last": True, "train.attention": "math"}
    completed("full", other | {"output.folder": tmp_path / "other"}, tmp_path / "log")
    cut = other | {"output.folder": tmp_path / "cut"}
    kill_after_three_steps("full", cut, tmp_path / "log_cut")
    completed("full", cut, tmp_path / "log_again")
    assert_same_end(tmp_path / "other", tmp_path / "cut")
    usual, rows = metrics(tmp_path / "usual"), metrics(tmp_path / "other")
    assert rows[0]["loss"] == pytest.approx(usual[0]["loss"], rel=1e-5)
    assert rows[0]["grad_norm"] == pytest.approx(usual[0]["grad_norm"], rel=1e-4)
    for row, other_row in zip(rows, usual, strict=True):
        assert 0 <= row["data_wait"] < 1 and row["step_seconds"] > 0
        computed = row["mfu"] * 1e9 * row["step_seconds"]  # FLOPs of a step, of the peak of 1e9 FLOP/s
        assert computed == pytest.approx(other_row["mfu"] * 1e9 * other_row["step_seconds"], rel=1e-6)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("train.attention", "cudnn", "train.attention: got cudnn"),
        ("train.tf32", True, "train.tf32: got true on cpu"),
    ],
)
def test_what_the_device_cannot_do_is_refused(
    tiny_run: Options, tmp_path: Path, option: str, value: object, words: str
) -> None:
    refused("lora", tiny_run | {option: value, "output.folder": tmp_path / "out"}, tmp_path / "log", words)
