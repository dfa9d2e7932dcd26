"""The lines of scores.jsonl. Torch-free."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune.evaluate.choice import place
from finetune.files import write_atomically
from finetune.json_text import parse_json


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read scores.jsonl. Raises ValueError for a line that is not an object with scores."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not {"id", "step", "target", "scores"} <= set(row):
            raise ValueError(f"line {number} of {path} is damaged. Remove that line, or the file.")
        found.append(row)
    return found


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace scores.jsonl, in the order of steps."""
    ordered = sorted(rows, key=place)
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))
