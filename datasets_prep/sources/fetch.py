"""Fetch the files below a URL to a folder. Only new and changed ones are read."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datasets_prep.measure.gather import Progress
from datasets_prep.records import Rejected
from finetune.data.remote.storage import BLOCK, RemoteFile, Storage, StorageError
from finetune.data.remote.turns import alone
from finetune.files import unfinished, write_atomically, writing
from finetune.json_text import parse_json
from finetune.plurals import first_line, plural

NUM_THREADS = 16
FETCHED_AT_ONCE = 64
MOST_LOST_IN_A_ROW = 16
"""After as many files in a row that cannot be read, something is wrong with all of them."""
LONGEST_NAME = 240
"""Bytes of a name, beside those of the ending of an unfinished file."""


def fetch(storage: Storage, files: Sequence[RemoteFile], folder: Path, progress: Progress) -> list[Rejected]:
    """Make the folder equal to the files below a URL. Returns those that cannot be fetched.

    A file is fetched again where its size or stamp has changed. Another process that fetches the same is waited for.
    Raises ValueError where the disk has no room, and StorageError where nothing can be read any more.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with alone(folder.parent / "lock", f"source: waiting for another process that fetches {storage.url}."):
        is_case_blind = (folder.parent / "LOCK").exists()  # as on macOS
        kept, lost = with_paths(files, is_case_blind=is_case_blind)
        known = _known(folder.parent / "fetched.jsonl", kept)
        _remove_others(folder, {file.name for file in kept})
        missing = [file for file in kept if not _is_there(folder, file, known)]
        _check_room(storage, folder, missing, len(kept))
        with open(folder.parent / "fetched.jsonl", "a", encoding="ascii") as log:
            in_a_row = 0
            for done, (file, why) in enumerate(_fetched(storage, missing, folder), 1):
                in_a_row = 0 if why is None else in_a_row + 1
                if why is None:
                    print(_line(file), file=log, flush=True)
                elif in_a_row >= MOST_LOST_IN_A_ROW:
                    raise StorageError(f"source: {in_a_row} files in a row cannot be read. The last: {why}")
                else:
                    lost.append(Rejected(file.name, "unreadable", why))
                progress("fetching", done, len(missing))
    return lost


def _fetched(storage: Storage, files: Sequence[RemoteFile], folder: Path) -> Iterator[tuple[RemoteFile, str | None]]:
    """Fetch files in threads. Yields each with the reason why it cannot be read, if any."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for start in range(0, len(files), FETCHED_AT_ONCE):
            block = files[start : start + FETCHED_AT_ONCE]
            yield from zip(
                block, pool.map(lambda file: _fetch_one(storage, file, folder / file.name), block), strict=True
            )


def _fetch_one(storage: Storage, file: RemoteFile, path: Path) -> str | None:
    temporary = unfinished(path)
    with writing(path, file.size):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(b"")
    try:
        for start in range(0, file.size, BLOCK):
            data = storage.read(file.name, start, min(start + BLOCK, file.size))
            with writing(path, file.size), temporary.open("ab") as out:
                out.write(data)
        if file.size > BLOCK and storage.file(file.name) != file:
            raise StorageError("it was replaced while it was read; run the same command again")
    except (StorageError, FileNotFoundError) as error:
        temporary.unlink(missing_ok=True)
        return f"it could not be fetched: {first_line(error.__cause__ or error)}"
    with writing(path, file.size):
        temporary.replace(path)
    return None


def with_paths(files: Sequence[RemoteFile], *, is_case_blind: bool = False) -> tuple[list[RemoteFile], list[Rejected]]:
    """Set aside files whose names a folder cannot hold."""
    names = {file.name for file in files}
    seen: set[str] = set()
    kept: list[RemoteFile] = []
    lost: list[Rejected] = []
    for file in files:
        parts = file.name.split("/")
        above = ["/".join(parts[:number]) for number in range(1, len(parts))]
        why = None
        if "" in parts or "\0" in file.name:
            why = "its name has an empty part, such as a//b, or NUL"
        elif any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
            why = "its name is too long for a file"
        elif any(name in names for name in above):
            why = "another file has the name of its folder"
        elif is_case_blind and file.name.casefold() in seen:
            why = "another file differs in upper and lower case alone, which this disk does not tell apart"
        seen.add(file.name.casefold())
        if why is None:
            kept.append(file)
        else:
            lost.append(Rejected(file.name, "unreadable", f"{why}; rename it"))
    return kept, lost


def _is_there(folder: Path, file: RemoteFile, known: dict[str, str]) -> bool:
    try:
        size = (folder / file.name).stat().st_size
    except OSError:
        return False
    return size == file.size and file.stamp != "" and known.get(file.name) == _line(file)


def _line(file: RemoteFile) -> str:
    return json.dumps([file.name, file.size, file.stamp])


def _known(path: Path, files: Sequence[RemoteFile]) -> dict[str, str]:
    """Read the lines of fetched files by name. The log is written again without files that are gone."""
    names = {file.name for file in files}
    found: dict[str, str] = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines() if path.exists() else []:
        try:
            name, size, stamp = parse_json(line)
        except (ValueError, TypeError):  # a killed run's last, which is fetched again
            continue
        if name in names:
            found[name] = json.dumps([name, size, stamp])
    write_atomically(path, "".join(f"{line}\n" for line in found.values()))
    return found


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove fetched files that are gone, and leftovers of killed runs."""
    for place, _, found in os.walk(folder, topdown=False):
        for name in found:
            path = Path(place, name)
            if path.relative_to(folder).as_posix() not in names:
                path.unlink()
        if place != str(folder) and not os.listdir(place):
            os.rmdir(place)


def _check_room(storage: Storage, folder: Path, missing: Sequence[RemoteFile], total: int) -> None:
    if not missing:
        return
    needed, free = sum(file.size for file in missing), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"work: {storage.url} needs {needed / 1e9:,.2f} GB in {folder}, and {free / 1e9:,.2f} GB are free there. "
            "Make room, or set --work to a folder on a larger disk."
        )
    print(
        f"source: fetching {len(missing):,} of {plural(total, 'file')} below {storage.url} ({needed / 1e6:,.1f} MB) to "
        f"{folder}, where {free / 1e9:,.1f} GB are free.",
        file=sys.stderr,
        flush=True,
    )
