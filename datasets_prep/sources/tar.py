"""WebDataset archives: .tar files with one sample per name. The name of a member ends at the first dot."""

import functools
import os
import posixpath
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datasets_prep.captions.own import joined_entries, read_sidecars
from datasets_prep.records import Item, Listing, Reason, Rejected
from datasets_prep.sources.folder import sorted_listing
from datasets_prep.sources.scan import stamp_of
from finetune.data.captions.reading import CaptionReading, is_unicode
from finetune.data.hub import note_failed_downloads
from finetune.data.listing import Entry, Findings
from finetune.data.visible_files import MAX_FILE_BYTES

TAIL_BYTES = 2**20
COPY_DETAIL = "the archive holds a later file of the same name, which counts"


@dataclass(frozen=True)
class Index:
    """Contents of an archive, in its order."""

    members: Mapping[str, tuple[int, int]]
    """Name -> where a file's bytes begin, and their number."""
    rejected: Sequence[tuple[str, Reason, str]]
    """(name, reason, detail); the empty name stands for the archive itself."""
    hidden: Sequence[str]


@dataclass(frozen=True)
class TarSource:
    """The members of archives; nothing is extracted. A name is the archive's without suffix, "/", and the member's."""

    files: Mapping[str, str]
    """Name without suffix -> path."""
    name: str
    reading: CaptionReading

    def listing(self, findings: Findings) -> Listing:
        items, rejected = [], []
        tables = [Path(path).with_suffix(".parquet") for path in self.files.values()]
        note_failed_downloads([path for path in tables if path.is_file()], findings)
        for stem, path in self.files.items():
            stamp = stamp_of(os.stat(path))
            index = _index(path, stamp)
            for name in index.hidden:
                findings.warn("hidden files and folders, which are not looked at", f"{stem}/{name}")
            for name, reason, detail in index.rejected:
                rejected.append(Rejected(f"{stem}/{name}" if name else os.path.basename(path), reason, detail))
            for name, member in index.members.items():
                items.append(Item(f"{stem}/{name}", (*stamp, *member)))
        return sorted_listing(items, rejected)

    def entries(self, sources: Sequence[str], findings: Findings) -> Mapping[str, Entry]:
        wanted = set(sources)
        found: dict[str, Entry] = {}
        for stem, path in self.files.items():
            index = _index(path, stamp_of(os.stat(path)))
            names = [f"{stem}/{name}" for name in index.members]  # in the archive's order, which is quick to read
            names = [name for name in names if name in wanted]
            texts, used = read_sidecars(self.read, names, self.reading, findings, is_keyed=True)
            found |= joined_entries([name for name in names if name not in used], {}, texts)
        return {name: found[name] for name in sources if name in found}

    def read(self, source: str) -> bytes:
        stem = next(str(parent) for parent in PurePosixPath(source).parents if str(parent) in self.files)
        path = self.files[stem]
        member = _index(path, stamp_of(os.stat(path))).members.get(source.removeprefix(stem + "/"))
        if member is None:
            raise ValueError("the archive was changed and holds no such file any more")
        offset, num_bytes = member
        if num_bytes > MAX_FILE_BYTES:
            raise ValueError(f"{num_bytes:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(num_bytes)


@functools.lru_cache(maxsize=4)
def _index(path: str, stamp: tuple[int, ...]) -> Index:
    """Read the headers of an archive, once in each process. A changed archive has another stamp."""
    members: dict[str, tuple[int, int]] = {}
    rejected: list[tuple[str, Reason, str]] = []
    hidden = []
    try:
        with tarfile.open(path, "r:") as archive:
            fault = _read_members(archive, stamp[0], members, rejected, hidden)
    except tarfile.ReadError as error:  # nothing of it can be read
        fault = f"no archive, or one that is compressed or damaged: {error}"
    if fault is not None:
        rejected.append(("", "truncated", fault))
    return Index(members, rejected, hidden)


def _read_members(
    archive: tarfile.TarFile,
    num_bytes: int,
    members: dict[str, tuple[int, int]],
    rejected: list[tuple[str, Reason, str]],
    hidden: list[str],
) -> str | None:
    """Read the headers into `members`, `rejected` and `hidden`. Returns the fault at the archive's end, if any."""
    while True:
        try:
            info = archive.next()
        except tarfile.ReadError as error:
            return f"the archive breaks off ({error}); what is before that is used"
        if info is None:
            return _fault_at_end(archive, num_bytes)
        archive.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else it keeps all that it has seen
        if info.size < 0 or archive.offset <= info.offset:  # it would be read again, for ever
            return f"a damaged header at byte {info.offset:,}; what is before that is used"
        name = info.name.removeprefix("./")
        if info.isdir():
            continue
        if posixpath.basename(name).startswith("."):
            hidden.append(name)
        elif not info.isreg():
            rejected.append((name, "not_a_file", "a link, pipe or device"))
        elif not is_unicode(name):
            rejected.append((name, "unreadable", "its name is not UTF-8"))
        elif info.sparse is not None:
            rejected.append((name, "unreadable", "stored as a sparse file"))
        elif info.offset_data + info.size > num_bytes:
            rejected.append((name, "truncated", "the archive ends before the file does"))
        else:
            if name in members:
                rejected.append((name, "unreadable", COPY_DETAIL))
            members[name] = info.offset_data, info.size


def _fault_at_end(archive: tarfile.TarFile, num_bytes: int) -> str | None:
    """Describe the fault where an archive does not end in zeros."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    rest = archive.fileobj.read(TAIL_BYTES)
    return f"a damaged header at byte {archive.offset:,}; what is before that is used" if rest.strip(b"\0") else None
