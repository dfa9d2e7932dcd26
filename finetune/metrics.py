"""OUT/metrics.jsonl, and the averages over the steps between two of its lines; torch-free."""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune.disk import sync, writing

Row = dict[str, float]


@dataclass
class Window:
    """Sums over the steps since the last logged line; saved in checkpoints, so that a resumed run logs the same
    means."""

    loss: float = 0.0
    steps: int = 0
    pictures: int = 0
    seconds: float = 0.0

    def add(self, loss: float, pictures: int, seconds: float) -> None:
        """Counts one optimizer step."""
        self.loss += loss
        self.steps += 1
        self.pictures += pictures
        self.seconds += seconds

    def take(self) -> Row:
        """Returns the means and starts again."""
        row = {"loss": self.loss / self.steps, "images_per_second": self.pictures / max(self.seconds, 1e-9)}
        self.loss, self.steps, self.pictures, self.seconds = 0.0, 0, 0, 0.0
        return row

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class MetricsFile:
    """One JSON object a logged step; on resume cut back to what the checkpoint knows."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        """Opens the file with its first `keep_bytes` bytes; raises ValueError where it has become shorter than that."""
        size = path.stat().st_size if path.exists() else 0
        if size < keep_bytes:
            raise ValueError(
                f"{path} has {size} bytes, the checkpoint was written after {keep_bytes}. Put the file back, or start "
                "anew in another output.folder."
            )
        self._path = path
        with writing(path):
            self._file = path.open("ab", buffering=0)  # so that a full disk is met in write(), not at the process's end
            self._file.truncate(keep_bytes)
            sync(path.parent)

    def write(self, row: Row) -> None:
        """Adds one line; numbers that JSON cannot hold become null."""
        plain = {key: value if math.isfinite(value) else None for key, value in row.items()}
        line = (json.dumps(plain) + "\n").encode()
        with writing(self._path, len(line)):
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]

    def num_bytes(self) -> int:
        """The file's size."""
        return os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Force the file to disk."""
        with writing(self._path):
            os.fsync(self._file.fileno())
