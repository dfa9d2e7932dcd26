"""A cache of numbers in JSON Lines that survives kills."""

import json
from pathlib import Path

from finetune.data.listing import Findings
from finetune.json_text import parse_json


class JsonLines:
    """Key -> number, in an append-only file. Unreadable lines, such as a killed run's last, are counted and skipped."""

    def __init__(self, path: Path, findings: Findings) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._values: dict[str, float] = {}
        ends_torn = False
        if path.exists():
            for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
                ends_torn = not line.endswith(b"\n")
                try:
                    key, value = parse_json(line)
                    self._values[str(key)] = float(value)
                except (ValueError, TypeError, OverflowError):
                    findings.warn(f"lines of {path.name} that cannot be read; they are made again", f"line {number}")
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  closed by close()
        if ends_torn:
            self._file.write(b"\n")

    def get(self, key: str) -> float | None:
        return self._values.get(key)

    def put(self, key: str, value: float) -> None:
        self._values[key] = value
        self._file.write(json.dumps([key, value]).encode("ascii") + b"\n")

    def close(self) -> None:
        self._file.close()
