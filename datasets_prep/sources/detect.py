"""The source that the user gives: folders, files, tables, archives or datasets."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from datasets_prep.records import PrepSource
from datasets_prep.sources.folder import FilesSource, FoldersSource, named_files
from datasets_prep.sources.kind import Given, SourceKind
from datasets_prep.sources.rows import saved_rows
from datasets_prep.sources.tables import parquet_tables
from datasets_prep.sources.tar import TarSource
from finetune.data.captions.reading import CaptionReading
from finetune.data.links import refuse_links_out
from finetune.data.visible_files import is_saved_dataset

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tzst")
BESIDE_TABLES = (".md", ".json", ".yaml")
BESIDE_ARCHIVES = (*BESIDE_TABLES, ".parquet")  # some who write archives repeat the captions in tables
HUB_ID = r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?"

Value = TypeVar("Value")


def open_source(
    given: tuple[str, ...], *, reading: CaptionReading, image_column: str, output: Path, follow_links: bool = False
) -> PrepSource:
    """Open the source, given once or as several of the same kind. Only its kind is found out; nothing else is read yet.
    Several folders are told apart by their names; a folder of tables or archives holds nothing else; a dataset may end
    in ":" and a split. Raises FileNotFoundError or ValueError where there is no such source, kinds are mixed, the
    output and the source contain each other, or links lead out of a folder and `follow_links` does not allow it."""
    assert given
    kinds = {name: _kind(name) for name in given}
    if len({kind.name for kind in kinds.values()}) > 1:
        listed = "; ".join(f"{name} ({kind.name})" for name, kind in kinds.items())
        raise ValueError(f"source: got different kinds, expected one: {listed}. Prepare each by itself.")
    paths = tuple(os.path.expanduser(name) for name in dict.fromkeys(given))
    for path in paths:
        _check_output(path, output)
        if os.path.isdir(path) and not follow_links:
            refuse_links_out(path, "follow_links")
    request = Given(paths, _short_name(paths), reading, image_column, output, follow_links)
    return kinds[given[0]].open(request)


def _kind(given: str) -> SourceKind:
    """Return the first kind that matches."""
    path, lower = Path(given).expanduser(), given.lower()
    if path.is_file() and lower.endswith(PACKED):
        raise ValueError(
            f"source: {given} is a compressed archive, in which no image can be reached without unpacking all "
            "before it. Unpack it and give the folder, or pack it again without compression as .tar."
        )
    if path.is_file() and lower.endswith((".jsonl", ".csv")):
        raise ValueError(f"source: {given} is a listing. Give its folder: {path.parent}")
    for kind in SOURCES:
        if kind.matches(os.path.expanduser(given)):
            return kind
    raise FileNotFoundError(
        f"source: there is no {given}. Expected a folder of images, image files, a .txt or .lst file with a path a "
        "line, .parquet or .tar files, or a Hub dataset as owner/name. Check the spelling."
    )


def _are_datasets(given: str) -> bool:
    if os.path.exists(given):
        return os.path.isdir(given) and _is_saved_dataset(Path(given))
    location, _, _ = given.rpartition(":")
    if location and os.path.isdir(os.path.expanduser(location)):
        return True
    is_id = re.fullmatch(HUB_ID, given) is not None
    return is_id and not given.lower().endswith((".parquet", ".tar", ".txt", ".lst"))


def _open_datasets(given: Given) -> PrepSource:
    locations = [_location(path) for path in given.paths]
    prefixes = _distinct(locations, lambda location: os.path.basename(os.path.normpath(location[0])))
    return saved_rows(prefixes, given.name, given.image_column, given.reading.column)


def _are_tables(given: str) -> bool:
    is_prepared = os.path.isdir(given) and _tables_folder(given) is not None
    return is_prepared or _are_files(given, ".parquet", BESIDE_TABLES)


def _open_tables(given: Given) -> PrepSource:
    paths = [_tables_folder(path) or path for path in given.paths]
    return parquet_tables(_stems(paths, ".parquet"), given.name, given.image_column, given.reading.column)


def _open_folders(given: Given) -> PrepSource:
    skipped = (str(given.output.expanduser().resolve()),)
    return FoldersSource(_prefixes(given.paths), given.name, skipped, given.reading)


def _open_files(given: Given) -> PrepSource:
    named = named_files(given.paths)
    if not named:
        raise ValueError(f"source: {', '.join(given.paths)} names no file, expected a path a line. Check the list.")
    for path in named.values():
        _check_output(path, given.output)
    source = FilesSource(named, given.name, given.reading)
    if not given.follow_links:
        source.refuse_links_out()
    return source


SOURCES = (
    SourceKind("datasets", _are_datasets, _open_datasets),
    SourceKind("Parquet", _are_tables, _open_tables),
    SourceKind(
        "WebDataset archives",
        lambda given: _are_files(given, ".tar", BESIDE_ARCHIVES),
        lambda given: TarSource(_stems(given.paths, ".tar"), given.name, given.reading),
    ),
    SourceKind("folders", os.path.isdir, _open_folders),
    SourceKind("files", os.path.exists, _open_files),
)
"""All kinds; the first that matches is opened. The last two match whatever exists."""


def _are_files(given: str, suffix: str, beside: tuple[str, ...]) -> bool:
    """Recognise a file by its suffix, or a folder of such files."""
    if not os.path.isdir(given):
        return os.path.exists(given) and given.lower().endswith(suffix)
    is_any = False
    for name in _files_below(Path(given)):
        if name.lower().endswith(suffix):
            is_any = True
        elif not name.lower().endswith(beside):
            return False
    return is_any


def _is_saved_dataset(folder: Path) -> bool:
    try:
        return is_saved_dataset(folder)
    except PermissionError as error:
        raise ValueError(
            f"source: {folder} cannot be read ({error.strerror}). Run as a user who may, or change its permissions."
        ) from error


def _tables_folder(path: str) -> str | None:
    """Find the folder of the tables in a prepared dataset. Such a dataset has listings and a report beside it."""
    if not any((Path(path) / "data").glob("*.parquet")):
        return None
    from finetune.data.parquet import prepared_tables  # pyarrow takes a while to load

    try:
        return os.path.join(path, "data") if prepared_tables(path) else None
    except ValueError:  # some other table, which is damaged
        return None


def _files_below(folder: Path) -> Iterator[str]:
    """Yield the paths of visible files, unsorted, while they are wanted."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(root, name) for name in names if not name.startswith("."))


def _check_output(path: str, output: Path) -> None:
    source, target = Path(path).resolve(), output.expanduser().resolve()
    if source.exists() and (target.is_relative_to(source) or source.is_relative_to(target)):
        raise ValueError(
            f"output: {output} and the source {path} contain each other, expected two separate folders. "
            "Give an output elsewhere, so the source stays as it is."
        )


def _short_name(paths: Sequence[str]) -> str:
    """Name the source after its only path, or their common folder."""
    if len(paths) == 1:
        path = os.path.abspath(paths[0] if os.path.exists(paths[0]) else _location(paths[0])[0])
        return os.path.basename(path) if os.path.isdir(path) else os.path.splitext(os.path.basename(path))[0]
    return os.path.basename(os.path.commonpath([os.path.abspath(path) for path in paths]))


def _prefixes(paths: Sequence[str]) -> dict[str, str]:
    real = [str(Path(path).resolve()) for path in paths]
    for inner in real:
        for outer in real:
            if inner != outer and Path(inner).is_relative_to(outer):
                raise ValueError(f"source: {inner} is in {outer}, which is given too. Omit the inner one.")
    return _distinct(list(dict.fromkeys(real)), os.path.basename)


def _stems(paths: Sequence[str], suffix: str) -> dict[str, str]:
    """Map names without suffix to given and contained files, sorted. Contained ones are relative to their folder."""
    files: dict[str, str] = {}
    for path in paths:
        for file in _files_below(Path(path)) if os.path.isdir(path) else [path]:
            if not file.lower().endswith(suffix):
                continue
            stem = os.path.relpath(file, path) if os.path.isdir(path) else os.path.basename(file)
            _add(files, stem[: -len(suffix)], os.path.abspath(file))
    for stem in files:
        for parent in map(str, Path(stem).parents):
            if parent in files:  # rows of the one could be called as files of the other are
                _add(files, parent, files[stem])
    return dict(sorted(files.items()))


def _distinct(values: Sequence[Value], name_of: Callable[[Value], str]) -> dict[str, Value]:
    """Map prefixes to values. The prefix of a single value is empty, others are the name and "/"."""
    if len(values) == 1:
        return {"": values[0]}
    named: dict[str, Value] = {}
    for value in values:
        _add(named, name_of(value) + "/", value)
    return named


def _add(named: dict[str, Value], name: str, value: Value) -> None:
    if name in named:
        raise ValueError(
            f"source: {named[name]} and {value} have the same name, by which their images are told apart. "
            "Rename one, or give the folder of both."
        )
    named[name] = value


def _location(path: str) -> tuple[str, str]:
    """Split a path into the folder or id, and the split."""
    location, _, split = path.rpartition(":")
    return (location, split) if location and not os.path.exists(path) else (path, "train")
