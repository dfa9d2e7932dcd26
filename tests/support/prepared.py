"""Listings of prepared folders."""

import json
from pathlib import Path

Rows = dict[str, dict]


def rows_of(folder: Path, name: str = "metadata.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def kept_and_left_out(folder: Path) -> tuple[Rows, Rows]:
    kept, left_out = (
        {row["source"]: row for row in rows_of(folder, name)} for name in ("metadata.jsonl", "rejected.jsonl")
    )
    return kept, left_out
