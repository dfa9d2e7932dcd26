import pytest
from rich.progress import Progress

from finetune.run.progress import ProgressLine


def line(done: int = 0) -> ProgressLine:
    return ProgressLine(Progress(disable=True), is_terminal=False, steps=100, done=done, passes_per_step=0.25)


def row(step: int) -> dict[str, float]:
    return {"step": step, "loss": 0.5, "lr": 1e-4, "images_per_second": 4.0}


def test_the_time_left_counts_only_this_starts_steps() -> None:
    assert line().seconds_left(20, 10.0) == pytest.approx(40.0)
    assert line(done=60).seconds_left(80, 10.0) == pytest.approx(10.0)  # 20 steps took 10 s, 20 are left
    assert line(done=80).seconds_left(80, 0.01) is None  # no step was taken yet
    assert line().seconds_left(100, 10.0) is None


def test_plain_lines_have_passes_and_the_time_left_and_the_first_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    shown = line()
    for step in (10, 50, 100):
        shown.log(row(step))
    first, end, second, last = capsys.readouterr().out.splitlines()
    assert "pass 2.5 of 25, " in first and first.endswith(" left") and end.startswith("Estimated end: ")
    line(done=50).log(row(50))
    assert "left" not in (resumed := capsys.readouterr().out) and "Estimated" not in resumed
    assert "pass 12.5 of 25" in second and "pass 25 of 25" in last and "left" not in last
