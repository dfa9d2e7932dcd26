"""Decisions of a user about single images. Lines are only ever appended to decisions.jsonl."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from finetune.data.listing import Findings
from finetune.files import sync
from finetune.json_text import parse_json

Action = Literal["keep", "drop", "caption", "undo"]
"""undo takes back the latest decision about the image that still counts."""

MOST_CHARACTERS = 20_000
"""Longest caption, so a mistake cannot fill the file."""


@dataclass(frozen=True)
class Decision:
    """One line of decisions.jsonl."""

    sha256: str
    """Of the image's file, 64 hexadecimal digits; a decision belongs to the content, not the file name."""
    source: str
    """The name that the image had; for readers only."""
    action: Action
    text: str | None = None
    """The caption where the action is caption, else None."""


@dataclass(frozen=True)
class Decided:
    """The outcome of all decisions about one image."""

    source: str
    verdict: Literal["keep", "drop"] | None
    text: str | None
    """The caption to use, None where it stays as it is."""


def checked(line: object) -> Decision:
    """Check a parsed line. Raises ValueError that says what is wrong."""
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    sha256, action, text, source = (line.get(key) for key in ("sha256", "action", "text", "source"))
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError("sha256 is not 64 hexadecimal digits")
    if action is None or action not in get_args(Action):
        raise ValueError(f"action is none of {', '.join(get_args(Action))}")
    if action != "caption" and text is not None:
        raise ValueError(f"text does not go with the action {action}")
    if action == "caption":
        if not isinstance(text, str):
            raise ValueError("text is missing")
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"text has {len(text):,} characters, expected at most {MOST_CHARACTERS:,}")
        if "\0" in text or re.search("[\ud800-\udfff]", text):
            raise ValueError("text holds characters that no caption can have")
    return Decision(sha256, source if isinstance(source, str) else "", action, text)


def read_lines(path: Path, findings: Findings) -> Iterator[Decision]:
    """Yield every valid line in order; warn of broken ones. A missing file has no decisions."""
    if not path.exists():
        return
    with open(path, "rb") as file:  # bytes, since a torn line may not be UTF-8
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield checked(parse_json(line))
            except ValueError as error:
                reason = "not JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)
                findings.warn("decisions that cannot be read", f"{path.name} line {number} ({reason})")


def read_decisions(path: Path, findings: Findings) -> dict[str, Decided]:
    """Read the latest verdict and caption of each image, by sha256. Those taken back do not count."""
    counting: dict[str, list[Decision]] = {}
    for decision in read_lines(path, findings):
        own = counting.setdefault(decision.sha256, [])
        if decision.action != "undo":
            own.append(decision)
        elif own:
            own.pop()
    return {sha256: _merged(own) for sha256, own in counting.items() if own}


def _merged(decisions: list[Decision]) -> Decided:
    verdict = text = None
    for decision in decisions:
        if decision.action == "caption":
            text = decision.text
        elif decision.action != "undo":
            verdict = decision.action
    return Decided(decisions[-1].source, verdict, text)


def append_decision(path: Path, decision: Decision) -> None:
    """Append one whole line that survives a power cut. A torn line before it stays separate."""
    line = json.dumps({key: value for key, value in asdict(decision).items() if value is not None})
    is_new = not path.exists()
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(line.encode("ascii") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync(path.parent)
