"""Count how often a run's process opens, hashes and decodes images."""

import functools
import hashlib
import io
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageFile

from finetune.data import parquet


@dataclass(frozen=True)
class CountFiles:
    """Counters of a process, which write a line "ACTION NAME" to `log`."""

    images: Mapping[bytes, str]
    """Name by content."""
    log: Path

    def __call__(self) -> None:
        """Begin to count in this process."""
        names = set(self.images.values())

        def opened(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and isinstance(arguments[0], str) and (name := Path(arguments[0]).name) in names:
                self.note("opened", name)

        sys.addaudithook(opened)
        hashlib.sha256 = self.noting("hashed", hashlib.sha256, lambda arguments: arguments and arguments[0])
        parquet.stored_bytes = self.noting("opened", parquet.stored_bytes, bytes_of_row)
        ImageFile.ImageFile.load = self.noting("decoded", ImageFile.ImageFile.load, bytes_to_decode)

    def noting(
        self, action: str, function: Callable[..., Any], data_of: Callable[[tuple[Any, ...]], object]
    ) -> Callable[..., Any]:
        """Wrap a function to note the image that `data_of` finds."""

        @functools.wraps(function)
        def noted(*arguments: Any, **named: Any) -> Any:
            data = data_of(arguments)
            if isinstance(data, bytes) and data in self.images:
                self.note(action, self.images[data])
            return function(*arguments, **named)

        return noted

    def note(self, action: str, name: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{action} {name}\n")

    def counts(self) -> dict[str, dict[int, int]]:
        """Return {times: number of images} for each action, and begin again."""
        lines = Counter(self.log.read_text().splitlines() if self.log.exists() else ())
        self.log.unlink(missing_ok=True)
        actions = ("opened", "hashed", "decoded")
        times = {action: [lines[f"{action} {name}"] for name in self.images.values()] for action in actions}
        return {action: dict(Counter(found)) for action, found in times.items()}


def bytes_to_decode(arguments: tuple[Any, ...]) -> bytes | None:
    """Return the content of an image whose pixels are not decoded yet."""
    image = arguments[0]
    return image.fp.getvalue() if image.tile and isinstance(image.fp, io.BytesIO) else None


def bytes_of_row(arguments: tuple[Any, ...]) -> bytes | None:
    """Return the image in the value of a table's row."""
    value = arguments[0].as_py()
    return value["bytes"] if isinstance(value, dict) else value
