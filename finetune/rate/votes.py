"""Votes about pairs, one line each in votes.jsonl. Torch-free."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from finetune.files import sync, writing
from finetune.json_text import parse_json
from finetune.rate.pairs import Pair

FILE = "votes.jsonl"
Vote = Literal["left", "right", "none"]
VOTES: tuple[str, ...] = get_args(Vote)
Preferred = str | None
"""SHA-256 of the preferred image's pixels, or None where no difference was seen."""


def read_votes(path: Path, pairs: Sequence[Pair], warn: Callable[[str], None]) -> dict[str, Preferred]:
    """Read the votes that count, in the order in which they came."""
    known = {pair.key: {pair.left.sha256, pair.right.sha256, None} for pair in pairs}
    found: dict[str, Preferred] = {}
    rows, damaged = read_lines(path)
    for key, row in rows:
        preferred = row.get("preferred")
        if row.get("undone") is True:
            found.pop(key, None)
        elif key in known and isinstance(preferred, str | None) and preferred in known[key]:
            found.pop(key, None)  # the last vote about a pair counts, also for the order
            found[key] = preferred
    if damaged:
        warn(f"{path}: {damaged:,} of its lines cannot be read and are left out.")
    return found


def read_lines(path: Path) -> tuple[list[tuple[str, Mapping[str, Any]]], int]:
    """Return pair and content of each line. Also return the number of damaged lines."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    damaged = 0
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = parse_json(line)
            found.append((str(row["pair"]), dict(row)))
        except (ValueError, KeyError, TypeError):
            damaged += bool(line.strip())
    return found, damaged


def vote_line(pair: Pair, vote: Vote) -> Mapping[str, Any]:
    """Describe a vote so that it can be counted without the images."""
    preferred = {"left": pair.left.sha256, "right": pair.right.sha256, "none": None}[vote]
    sides = {
        name: {"target": image.target, "sha256": image.sha256}
        for name, image in (("left", pair.left), ("right", pair.right))
    }
    return {"pair": pair.key, "prompt": pair.prompt, "seed": pair.seed, **sides, "vote": vote, "preferred": preferred}


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append one whole line that survives a power cut. A torn line before it stays separate."""
    line = json.dumps({**row, "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}).encode("ascii") + b"\n"
    is_new = not path.exists()
    with writing(path, len(line)), open(path, "ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
        os.fsync(file.fileno())
    if is_new:
        sync(path.parent)
