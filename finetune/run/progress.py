"""The progress bar on the main process; plain lines without a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from finetune.run_folder.metrics import Row


class ProgressLine:
    """Shows step, loss, images/s and the time left."""

    def __init__(self, bar: Progress, *, is_terminal: bool, steps: int, done: int) -> None:
        self._bar, self._is_terminal, self._steps = bar, is_terminal, steps
        self._task = bar.add_task("", total=steps, completed=done, loss="-", speed="-")

    def advance(self, loss: float) -> None:
        """Count one step."""
        self._bar.update(self._task, advance=1, loss=f"{loss:.4f}")

    def log(self, row: Row) -> None:
        """Show the means of a logged line."""
        self._bar.update(self._task, speed=f"{row['images_per_second']:.3g}")
        if not self._is_terminal:
            validation = f", validation {row['validation/loss']:.4f}" if "validation/loss" in row else ""
            print(
                f"step {row['step']}/{self._steps}: loss {row['loss']:.4f}{validation}, lr {row['lr']:.3g}, "
                f"{row['images_per_second']:.3g} images/s",
                flush=True,
            )


@contextmanager
def progress_line(steps: int, done: int, *, shown: bool) -> Iterator[ProgressLine]:
    """Show the bar while the context lasts, if `shown`."""
    console = Console(stderr=True)
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} images/s  left"),
        TimeRemainingColumn(),
    )
    is_terminal = console.is_terminal or not shown
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        yield ProgressLine(bar, is_terminal=is_terminal, steps=steps, done=done)
