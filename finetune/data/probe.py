"""Read each listed file once. Its header has the size, all bytes give the hash."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from finetune.data.images.decode import upright_size
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import Entry, Findings, ImageSource

PROBED_AT_ONCE = 1024


def probe_all(
    entries: Sequence[Entry], source: ImageSource, findings: Findings, kept: KeptFiles
) -> Iterator[tuple[Entry, tuple[int, int], str]]:
    """Yield the usable images with upright size and hash. Others are noted. Files are read in threads, since reading
    and hashing release Python's lock."""
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(entries), PROBED_AT_ONCE):
            part = entries[start : start + PROBED_AT_ONCE]
            results = pool.map(lambda entry: _probe(source, entry.file_name, kept), part)
            for entry, (found, text) in zip(part, results, strict=True):
                if isinstance(found, str):
                    findings.error(found, text)
                else:
                    yield entry, found, text


def _probe(source: ImageSource, file_name: str, kept: KeptFiles) -> tuple[tuple[int, int] | str, str]:
    """Return size and hash, or kind and item of a finding."""
    try:
        data = source.read(file_name)
    except FileNotFoundError:
        return "files that do not exist", file_name
    except OSError as error:
        return "files that cannot be read", f"{file_name} ({error.strerror or error})"
    except ValueError as error:
        return "files that cannot be read", f"{file_name} ({error})"
    try:
        size = upright_size(data)
    except ValueError as error:
        return "files that are not usable images", f"{file_name} ({error})"
    except MemoryError:
        return "files that are not usable images", f"{file_name} (its header needs too much memory)"
    return size, kept.add(data)
