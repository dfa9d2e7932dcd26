"""The progress bar on the main process; plain lines without a terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from finetune.report.curves import duration
from finetune.run_folder.metrics import Row


class ProgressLine:
    """Shows step, loss, images/s, passes and the time left."""

    def __init__(self, bar: Progress, *, is_terminal: bool, steps: int, done: int, passes_per_step: float) -> None:
        self._bar, self._is_terminal, self._steps, self._first = bar, is_terminal, steps, done
        self._passes_per_step = passes_per_step
        self._begun, self._end_is_said = time.perf_counter(), False
        self._task = bar.add_task("", total=steps, completed=done, loss="-", speed="-", passes="-")

    def advance(self, loss: float) -> None:
        """Count one step."""
        self._bar.update(self._task, advance=1, loss=f"{loss:.4f}")

    def log(self, row: Row) -> None:
        """Show the means of a logged line. The first also has the end."""
        step = int(row["step"])
        passes = f"{step * self._passes_per_step:.3g} of {self._steps * self._passes_per_step:.3g}"
        self._bar.update(self._task, speed=f"{row['images_per_second']:.3g}", passes=passes)
        left = self.seconds_left(step, time.perf_counter() - self._begun)
        if not self._is_terminal:
            validation = f", validation {row['validation/loss']:.4f}" if "validation/loss" in row else ""
            ending = f", {duration(left)} left" if left is not None else ""
            print(
                f"step {step}/{self._steps}: loss {row['loss']:.4f}{validation}, lr {row['lr']:.3g}, "
                f"{row['images_per_second']:.3g} images/s, pass {passes}{ending}",
                flush=True,
            )
        if not self._end_is_said and left is not None:
            self._end_is_said = True
            end = datetime.now() + timedelta(seconds=left)
            print(f"Estimated end: {end:%Y-%m-%d %H:%M}, {duration(left)} from now.", flush=True)

    def seconds_left(self, step: int, elapsed: float) -> float | None:
        """Return the time that is left at the pace so far. Previews and validation count. None before the first step of
        this start, as the pace is not known, and after the last."""
        if not self._first < step < self._steps:
            return None
        return elapsed / (step - self._first) * (self._steps - step)


@contextmanager
def progress_line(steps: int, done: int, *, passes_per_step: float, shown: bool) -> Iterator[ProgressLine]:
    """Show the bar while the context lasts, if `shown`."""
    console = Console(stderr=True)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} images/s  pass {task.fields[passes]}  left"),
        TimeRemainingColumn(),
    )
    is_terminal = console.is_terminal or not shown
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        yield ProgressLine(bar, is_terminal=is_terminal, steps=steps, done=done, passes_per_step=passes_per_step)
