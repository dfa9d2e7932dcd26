"""A tracker: the numbers of every logged step as lines of OUT/metrics.csv."""

import csv
from collections.abc import Mapping, Sequence

from finetune.tracking.backend import LoggedFiles, PreviewRow, TrackedRun


class CsvFile:
    """A file of steps, names and numbers."""

    def __init__(self, run: TrackedRun) -> None:
        self._path = run.folder / "metrics.csv"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((step, name, value) for name, value in metrics.items())

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        """Record no images."""

    def log_files(self, files: LoggedFiles) -> None:
        """Record no files."""

    def finish(self, exit_code: int) -> None:
        """Close nothing."""

    def notes(self) -> list[str]:
        return [f"csv: {self._path}"]
