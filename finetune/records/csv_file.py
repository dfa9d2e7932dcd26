"""Records as CSV that no spreadsheet takes for formulas, and back."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.files import write_atomically
from finetune.records.database import COLUMNS

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Spreadsheets read a cell that begins with one of these as a formula, some after dropping white space."""
QUOTE = "'"
"""Before a text it makes spreadsheets show the text as it is."""


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows, with a column for every score. Another program's file is refused."""
    if path.exists() and not is_ours(path):
        raise ValueError(f"csv: {path} is there and not a list of records. Move it, or give another name.")
    names = [*COLUMNS, *sorted({name for row in rows for name in row} - set(COLUMNS))]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([quoted(row.get(name)) for name in names] for row in rows)
    write_atomically(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the file again, as text without the quotes."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: unquoted(text) for name, text in row.items()} for row in csv.DictReader(file)]


def is_ours(path: Path) -> bool:
    """Recognize a list of records by its first line."""
    with path.open("rb") as file:
        return file.readline(1000).decode("utf-8", "replace").startswith(",".join(COLUMNS))


def quoted(value: object) -> str:
    """Write a cell. Numbers stay numbers, also negative ones; a text that begins like a formula gets a quote."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    return QUOTE + text if text.lstrip(" ").startswith((*FORMULA_SIGNS, QUOTE)) else text


def unquoted(text: str) -> str:
    """Read a cell as it was before it was quoted."""
    inner = text.removeprefix(QUOTE)
    return inner if text != inner and inner.lstrip(" ").startswith((*FORMULA_SIGNS, QUOTE)) else text
