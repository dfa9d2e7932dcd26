"""Read each listed file once. Its header has the size, all bytes give the hash."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from finetune.data.images.decode import upright_size
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import Entry, Findings, ImageSource

PROBED_AT_ONCE = 1024


@dataclass(frozen=True)
class Probed:
    """Properties of a file that a header and a hash tell."""

    size: tuple[int, int]
    """Width and height of the upright image."""
    sha256: str


@dataclass(frozen=True)
class Fault:
    """A finding about a file: its kind, and the item to name."""

    kind: str
    item: str


def probe_all(
    entries: Sequence[Entry], source: ImageSource, findings: Findings, kept: KeptFiles
) -> Iterator[tuple[Entry, Probed]]:
    """Yield the usable images with size and hash, and note the others.

    Files are read in threads, since reading and hashing release Python's lock.
    """
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(entries), PROBED_AT_ONCE):
            part = entries[start : start + PROBED_AT_ONCE]
            results = pool.map(lambda entry: _probe(source, entry.file_name, kept), part)
            for entry, found in zip(part, results, strict=True):
                if isinstance(found, Probed):
                    yield entry, found
                else:
                    findings.error(found.kind, found.item)


def _probe(source: ImageSource, file_name: str, kept: KeptFiles) -> Probed | Fault:
    try:
        data = source.read(file_name)
    except FileNotFoundError:
        return Fault("files that do not exist", file_name)
    except OSError as error:
        return Fault("files that cannot be read", f"{file_name} ({error.strerror or error})")
    except ValueError as error:
        return Fault("files that cannot be read", f"{file_name} ({error})")
    try:
        size = upright_size(data)
    except ValueError as error:
        return Fault("files that are not usable images", f"{file_name} ({error})")
    except MemoryError:
        return Fault("files that are not usable images", f"{file_name} (its header needs too much memory)")
    return Probed(size, kept.add(data))
