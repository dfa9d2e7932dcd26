"""A source: an uncompressed or compressed .zip file of images and their caption files."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets_prep.captions.own import joined_entries, read_sidecars
from datasets_prep.records import Item, Listing, PrepSource
from datasets_prep.sources.folder import sorted_listing
from datasets_prep.sources.kind import Given, SourceKind
from finetune.data.captions.reading import CaptionReading
from finetune.data.listing import Entry, Findings


@dataclass(frozen=True)
class ZipSource:
    """The files of one archive."""

    path: str
    name: str
    reading: CaptionReading

    def listing(self, findings: Findings) -> Listing:
        with zipfile.ZipFile(self.path) as archive:
            files = [info for info in archive.infolist() if not info.is_dir()]
        return sorted_listing([Item(info.filename, (info.CRC, info.file_size)) for info in files], [])

    def entries(self, sources: Sequence[str], findings: Findings) -> Mapping[str, Entry]:
        texts, used = read_sidecars(self.read, sources, self.reading, findings)
        return joined_entries([name for name in sources if name not in used], {}, texts)

    def read(self, source: str) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(source)


def open_zip(given: Given) -> PrepSource:
    """Open the one archive that is given."""
    if len(given.paths) != 1:
        raise ValueError(f"source: got {len(given.paths)} .zip files, expected one. Prepare each by itself.")
    return ZipSource(given.paths[0], given.name, given.reading)


ZIP_FILES = SourceKind("zip files", zipfile.is_zipfile, open_zip)
