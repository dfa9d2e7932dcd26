"""Read images and captions from metadata.jsonl or metadata.csv."""

import csv
import io
import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence

from finetune.data.captions.columns import caption_column_of, chosen_column, missing_column
from finetune.data.captions.names import folded
from finetune.data.captions.reading import CaptionReading, UnreadableTextError, read_text
from finetune.data.captions.tables import NAME_FIELDS, NotUnderstood, delimiter_of, whole_line
from finetune.data.captions.text import in_lines
from finetune.data.listing import Entry, Findings, read_captions, read_entry
from finetune.data.visible_files import FolderSource
from finetune.json_text import parse_json


def read_listing(
    root: str, shown: str, listing: str, reading: CaptionReading, findings: Findings, names: Sequence[str] = ()
) -> list[Entry]:
    """Return the images that metadata.jsonl or metadata.csv lists.

    Their names are relative to the folder `root`. `names` are the files that exist: a listed name may differ from one
    of them in how Unicode composes it, or in capitals. Notes errors of single lines; raises ValueError where no line is
    usable or the caption column is absent.
    """
    try:
        text = read_text(FolderSource(root).read, listing, findings)
    except UnreadableTextError as error:
        raise UnreadableTextError(
            f"data.folder: {shown}/{listing} cannot be read ({error}). Make it readable, or move it away."
        ) from error
    rows = _json_rows(text, findings) if listing.endswith(".jsonl") else _csv_rows(text, findings)
    entries: dict[str, Entry] = {}
    columns: dict[str, None] = {}
    actual = _ActualNames(names)
    for line, row in rows:
        columns |= dict.fromkeys(row)
        name = _listed_name(row, line, findings)
        if name is None:
            continue
        name = actual.of(posixpath.normpath(name))
        if name in entries:
            findings.error("file names that are listed twice", f"{name} (again in line {line})")
            continue
        texts = [row.get(caption_column_of(row, reading.column)), row.get("captions_alt")]
        entries[name] = read_entry(name, read_captions(texts, name, findings), row, findings)
    column = chosen_column(columns, reading.column, listing, findings)
    if columns and column not in columns and "captions_alt" not in columns:
        raise ValueError(missing_column(reading.column_option, column, f"{shown}/{listing}", columns))
    if not entries:
        findings.raise_errors(f"data.folder: {shown}/{listing} lists no usable image:", "Correct it and run again.")
        raise ValueError(f"data.folder: {shown}/{listing} is empty, expected one image per line. Write it again.")
    return list(entries.values())


class _ActualNames:
    """Existing file names by the names in a list."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = set(names)
        self._folded: dict[str, list[str]] = {}

    def of(self, name: str) -> str:
        """Return the existing name that differs in composition, capitals or Windows' slashes. Else it is `name`."""
        slashed = posixpath.normpath(name.replace("\\", "/"))
        if name in self._names or not self._names:
            return name
        if slashed in self._names:
            return slashed
        if not self._folded:
            for each in self._names:
                self._folded.setdefault(folded(each), []).append(each)
        found = self._folded.get(folded(slashed), [])
        return found[0] if len(found) == 1 else name


def _listed_name(row: Mapping[str, object], line: int, findings: Findings) -> str | None:
    field = "file_name" if "file_name" in row else next((each for each in NAME_FIELDS[:-1] if each in row), "file_name")
    name = row.get(field)
    if not isinstance(name, str) or not name:
        findings.error("lines without a file_name", f"line {line}")
        return None
    if _escapes(name):
        findings.error("file names that lead out of the folder (absolute, .. or an address)", f"line {line}: {name}")
        return None
    return name


def _escapes(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or "://" in name or "\0" in name or bool(re.match(r"[A-Za-z]:[/\\]", name))


def _json_rows(text: str, findings: Findings) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(in_lines(text), 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                findings.error("lines that are not JSON", f"line {number} ({error})")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                findings.error("lines that are not a JSON object", f"line {number}")


def _csv_rows(text: str, findings: Findings) -> Iterator[tuple[int, dict[str, object]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text))
    try:
        columns = [column.strip() for column in next(filter(any, reader), [])]
        for line in filter(any, reader):
            try:
                cells = whole_line(line, len(columns), text)
            except NotUnderstood as error:
                findings.error("lines with more values than columns", f"line {reader.line_num}: {error}")
                continue
            values: dict[str, object] = {
                column: value or None for column, value in itertools.zip_longest(columns, cells, fillvalue="")
            }
            values |= {column: _number(values[column]) for column in ("weight", "repeats") if column in values}
            yield reader.line_num, values
    except csv.Error as error:
        findings.error("lines that are not CSV", f"line {reader.line_num} ({error})")


def _number(value: object) -> object:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
