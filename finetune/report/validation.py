"""The lowest validation loss of a run, beside last and scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.report.charts import Line, number
from finetune.report.rows import Row, numbers, series

AT = "validation/loss_at_"
RISEN = 0.01
"""Smallest share by which a loss has to rise again before it is spoken of."""


@dataclass(frozen=True)
class Lowest:
    """The lowest validation loss, and the last."""

    step: int
    loss: float
    last_step: int
    last: float

    @property
    def rise(self) -> float:
        """The last loss beyond the lowest, as a share of it."""
        return self.last / self.loss - 1 if self.loss else 0.0

    @property
    def has_risen(self) -> bool:
        return self.rise > RISEN


def lowest(rows: Sequence[Row], key: str = "validation/loss") -> Lowest | None:
    """Find the lowest value of a key. It is None without a finite one."""
    points = [(int(step), value) for step, value in series(rows, key) if value is not None]
    if not points:
        return None
    step, loss = min(points, key=lambda point: (point[1], point[0]))
    return Lowest(step, loss, *points[-1])


def timesteps(rows: Sequence[Row]) -> list[int]:
    """List the timesteps with losses of their own, in thousandths."""
    return sorted({int(key.removeprefix(AT)) for row in rows for key in row if key.startswith(AT)})


def summary(rows: Sequence[Row]) -> str:
    """Say where the validation loss was lowest; empty without one."""
    found = lowest(rows)
    if found is None:
        return ""
    if not found.has_risen:
        return f"Validation loss {number(found.last, 3)} at step {found.last_step}, nowhere more than 1 % lower."
    text = (
        f"Validation loss was lowest at step {found.step} ({number(found.loss, 3)}) and is {number(found.last, 3)} at "
        f"step {found.last_step}, {found.rise:+.0%}."
    )
    each = [(timestep, lowest(rows, f"{AT}{timestep}")) for timestep in timesteps(rows)]
    if each:
        listed = ", ".join(f"t={timestep} at step {low.step}" for timestep, low in each if low)
        text += f" By timestep it was lowest at: {listed} (strokes are drawn at small t, layouts at large t)."
    return f"{text} It does not judge a style by itself: compare the previews of both steps."


def disagreement(chosen: int | None, rows: Sequence[Row]) -> str:
    """Say where the loss would choose another step than the scores. A difference of 1 % is not spoken of."""
    low = lowest(rows)
    if low is None or chosen is None or low.step == chosen:
        return ""
    losses = [(abs(step - chosen), value) for step, value in series(rows, "validation/loss") if value is not None]
    if min(losses)[1] <= low.loss * (1 + RISEN):
        return ""
    return (
        f"Validation loss was lowest at step {low.step:,} ({number(low.loss, 3)}) and would choose that one. It does "
        "not judge a style or subject by itself, so the scores decide. Compare the images of both steps."
    )


def relative_lines(rows: Sequence[Row]) -> tuple[Line, ...]:
    """Draw each timestep's loss as a share of its first value."""
    lines = []
    for color, timestep in enumerate(timesteps(rows)):
        key = f"{AT}{timestep}"
        known = numbers(rows, key)
        if known and known[0]:
            points = tuple((step, None if value is None else value / known[0]) for step, value in series(rows, key))
            lines.append(Line(f"t={timestep}", points, "dots", color % 4 + 1))
    return tuple(lines)
