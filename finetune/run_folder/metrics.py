"""OUT/metrics.jsonl, and averages between two of its lines; torch-free."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune.files import sync, writing
from finetune.plurals import plural

Row = dict[str, float]


@dataclass(frozen=True)
class Window:
    """Sums over the steps since the last logged line. Checkpoints have them, so a resumed run logs the same means."""

    loss: float = 0.0
    steps: int = 0
    pictures: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of these in which the batch was not there yet."""
    flops: float = 0.0
    """Of all processes; 0 where they are not counted."""

    def plus(self, loss: float, pictures: int, seconds: float, waited: float = 0.0, flops: float = 0.0) -> "Window":
        """Return the sums with one more optimizer step."""
        sums = self.loss + loss, self.steps + 1, self.pictures + pictures, self.seconds + seconds
        return Window(*sums, self.waited + waited, self.flops + flops)

    def means(self) -> Row:
        """Return the mean loss, speed, and share of time waited."""
        seconds = max(self.seconds, 1e-9)
        found = {"loss": self.loss / self.steps, "images_per_second": self.pictures / seconds}
        return found | {"step_seconds": self.seconds / self.steps, "data_wait": self.waited / seconds}

    def utilization(self, peak: float) -> float:
        """Return the share of a peak, in FLOP/s (arXiv 2204.02311, appendix B)."""
        return self.flops / max(self.seconds, 1e-9) / peak


def known_bytes(data: bytes, num_bytes: int, step: int) -> int:
    """Count the bytes of metrics.jsonl to keep on resume at `step`. These are `num_bytes`, unless that is not the end
    of a line: then the file was altered, and the whole lines of earlier steps are kept."""
    if num_bytes == 0 or data[num_bytes - 1 : num_bytes] == b"\n":
        return num_bytes
    kept = 0
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n") or line_step(line) >= step:
            break
        kept += len(line)
    return kept


def line_step(line: bytes) -> int:
    """Return the step of a line, -1 if it has none."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1


class MetricsFile:
    """One JSON object per logged step. On resume, lines after the checkpoint are removed."""

    def __init__(
        self, path: Path, keep_bytes: int, step: int = 0, warn: Callable[[str], None] = lambda text: None
    ) -> None:
        """Open the file and keep its first `keep_bytes` bytes, those before `step`. If it was altered, warn, and keep
        the lines of earlier steps that are left."""
        self._path, self._warn = path, warn
        data = path.read_bytes() if path.exists() else b""
        kept = known_bytes(data, keep_bytes, step)
        num_lines = len(data[:kept].splitlines())
        if kept != keep_bytes:
            warn(
                f"{path} was altered since the checkpoint: it has {len(data):,} bytes, and had at least "
                f"{keep_bytes:,}. {plural(num_lines, 'line')} could be kept. The run continues and adds to them."
            )
        with writing(path):
            self._open(kept)

    def _open(self, size: int) -> None:
        self._file = self._path.open("ab", buffering=0)  # so a full disk is met in write(), not at the process's end
        self._file.truncate(size)
        sync(self._path.parent)

    def write(self, row: Row) -> None:
        """Append one line; numbers that JSON cannot represent become null."""
        plain = {key: value if math.isfinite(value) else None for key, value in row.items()}
        line = (json.dumps(plain) + "\n").encode()
        with writing(self._path, len(line)):
            self._follow()
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]

    def _follow(self) -> None:
        """Open the file again if it was deleted or replaced. Otherwise lines would go to a file without a name."""
        if self._path.exists() and os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
            return
        self._file.close()
        self._open(self._path.stat().st_size if self._path.exists() else 0)
        self._warn(f"{self._path} was deleted or replaced while the run was going; lines are added to what is there.")

    def num_bytes(self) -> int:
        """The file's size."""
        return os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Force the file to disk."""
        with writing(self._path):
            os.fsync(self._file.fileno())
