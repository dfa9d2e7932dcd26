"""Read the images of a URL as a manifest."""

from dataclasses import replace
from typing import Literal

from finetune.config.mask import MaskConfig
from finetune.config.sections import CacheConfig
from finetune.data.captions.reading import CaptionReading
from finetune.data.captions.rewrite import CaptionEdits
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import Findings
from finetune.data.manifest import Manifest
from finetune.data.refusals import refuse_masks
from finetune.data.remote.index import CORRECT, build_index
from finetune.data.remote.records import IndexedRecords, RemoteSource
from finetune.data.remote.shard import ShardReading
from finetune.data.remote.storage import Storage


def read_remote(
    url: str,
    image_column: str,
    reading: CaptionReading,
    captions: Literal["listed", "folder", "none"],
    mask: MaskConfig,
    kept: KeptFiles,
) -> Manifest:
    """Return the checked images of the shards below a URL. Raises ValueError with all that is wrong with them."""
    refuse_masks(url, mask, ("alpha", "file"))
    if captions == "folder":
        raise ValueError(f"data.captions: got folder, but the images of {url} are in shards. Omit data.captions.")
    findings, storage = Findings(), Storage(url)
    plain = replace(reading, edits=CaptionEdits(), unread="")  # captions are changed as they leave the index
    options = ShardReading(image_column, captions, plain)
    index = build_index(storage, options, findings, kept, kept.cache or CacheConfig().place)
    records = IndexedRecords(index, reading.edits)
    for _ in records.checked(findings):
        pass  # notes what is wrong with changed captions
    findings.raise_errors(f"data.folder: {url} cannot be trained on as it is:", CORRECT)
    return Manifest(records, RemoteSource(storage, index, image_column), url, findings.warnings, kept=kept)
