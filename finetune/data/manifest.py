"""The images and captions of a run, checked as a whole."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from finetune.config.mask import NO_MASKS, MaskConfig
from finetune.config.sections import DataConfig
from finetune.data.captions.reading import DEFAULT_READING, CaptionReading
from finetune.data.captions.rewrite import CaptionEdits, edited_captions
from finetune.data.changes import Changes
from finetune.data.folder import read_folder
from finetune.data.folder_repeats import FolderRepeats
from finetune.data.kept_files import KeptFiles
from finetune.data.links import refuse_links_out
from finetune.data.listing import Entry, Findings, ImageSource, Split
from finetune.data.masks import MaskFile, checked_masks
from finetune.data.probe import probe_all
from finetune.data.refusals import CORRECT_FILES, prepare_command, refuse_masks, refuse_no_dataset, refuse_unfinished
from finetune.data.remote.storage import is_url
from finetune.data.visible_files import FolderSource, holds_tables, is_saved_dataset, visible_files


@dataclass(frozen=True, slots=True)
class Record:
    """One image with its captions."""

    file_name: str
    """POSIX path relative to the folder, or row number and name in a dataset, or data/TABLE.parquet#ROW. Unique; may
    hold surrogate escapes."""
    captions: tuple[str, ...]
    width: int
    """Pixels of the upright image, like height."""
    height: int
    sha256: str
    """Of the file's bytes, in hex."""
    weight: float = 1.0
    """Factor on the image's loss."""
    repeats: int = 1
    """Times that the image is used in one pass."""
    split: Split | None = None
    """None leaves the choice to the run."""
    mask: MaskFile | None = None
    """None trains on the whole image."""
    resolution: int | None = None
    """Side of the square whose area its bucket stays within; None is that of the run."""


@dataclass(frozen=True)
class Manifest:
    """All records, sorted by their file names' bytes, and their source."""

    records: Sequence[Record]
    source: ImageSource
    location: str
    warnings: tuple[str, ...] = ()
    """One line per kind, with counts; nothing of it stops a run."""
    masks: ImageSource | None = None
    """Where to read the masks, where there are any."""
    kept: KeptFiles = field(default_factory=KeptFiles, compare=False)
    """Files that need not be read again."""
    places: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of several folders: the first part of file names, and the folder. Empty for one."""
    name: str = ""
    """Of several folders: their last parts, without class images."""

    @property
    def title(self) -> str:
        """Name the dataset: its place, or the last parts of several."""
        return self.name or self.location

    def path_of(self, file_name: str) -> Path:
        """Return where an image would be in a folder of files."""
        label, _, name = file_name.partition("/")
        return Path(self.places[label]) / name if label in self.places else Path(self.location) / file_name

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of all records and their images' bytes. It does not depend on the place on disk."""
        return _digest(sorted(self.digests().items()))

    def digests(self) -> dict[str, str]:
        """Map file names to a SHA-256, in hex, of what is trained."""
        return {
            r.file_name: _digest(
                [r.sha256, r.captions, r.weight, r.repeats, r.split, *([r.mask.sha256] if r.mask else [])]
            )
            for r in self.records
        }

    def changes(self, saved: dict[str, str]) -> Changes:
        """Return what was added, removed and changed since `saved`. `saved` is the result of an earlier `digests`."""
        now = self.digests()
        return Changes(
            added=tuple(name for name in now if name not in saved),
            removed=tuple(name for name in saved if name not in now),
            changed=tuple(name for name in now if name in saved and now[name] != saved[name]),
        )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode("ascii")).hexdigest()  # ASCII, so surrogate escapes cannot fail


def configured_manifest(
    data: DataConfig,
    mask: MaskConfig,
    captions: Literal["listed", "folder", "none"],
    unread: str = "data.captions is none",
    kept: KeptFiles | None = None,
) -> Manifest:
    """Read the manifest of data.folder as a recipe's options describe it. `unread` says why captions are not read. If
    the folder is one of several, its own options are the only ones in data.folders."""
    assert data.folder is not None, "several folders are read by read_folders"
    edits = CaptionEdits(expand=data.expand_syntax, trigger=data.trigger)
    for own in data.folders:
        edits = replace(edits, caption=own.caption, prefix=own.caption_prefix, suffix=own.caption_suffix)
    return read_manifest(
        data.folder,
        image_column=data.image_column,
        reading=CaptionReading(
            data.caption_column, data.caption_lines, unread, keeps_rating=data.keep_rating, edits=edits
        ),
        captions=captions,
        folder_repeats=data.folder_repeats,
        mask=mask,
        follow_links=data.follow_links,
        kept=kept,
    )


def read_manifest(
    folder: str,
    *,
    image_column: str = "image",
    reading: CaptionReading = DEFAULT_READING,
    captions: Literal["listed", "folder", "none"] = "listed",
    folder_repeats: FolderRepeats = "auto",
    mask: MaskConfig = NO_MASKS,
    follow_links: bool = False,
    kept: KeptFiles | None = None,
) -> Manifest:
    """Return the checked images of a folder or a Hub dataset.

    A folder contains one of these:
    - metadata.jsonl or metadata.csv: file_name, the caption column; optionally captions_alt, weight, repeats, split,
    - images with text or JSON files beside them, or in lists of other trainers (see `finetune.data.captions.files`),
    - the files of `Dataset.save_to_disk`, or data/*.parquet from preparation,
    - no image of its own, but Parquet, Arrow or archive files, as `datasets.load_dataset` reads them.

    A URL, such as s3://bucket/folder, is a folder of Parquet tables or WebDataset archives in remote storage. A name of
    the form owner/name that is not a folder is a Hub dataset, whose train split is read. The caption column has a text,
    a list of texts, or a class label, whose name is the caption. With `captions` folder, the name of an image's folder
    is its caption; with none, all have the empty one. `folder_repeats` decides if 10_NAME is a folder whose images
    count ten times. Masks in files need a folder of images, masks in alpha channels work with a Hub dataset too. Links
    that lead out of a folder are refused unless `follow_links`. Files that are read go into `kept`.

    Raises FileNotFoundError where the folder does not exist, and ValueError with all that is wrong with it at once.
    """
    if is_url(folder):
        from finetune.data.remote.read import read_remote  # pyarrow takes a while to load

        return read_remote(folder, image_column, reading, captions, mask, kept or KeptFiles())
    findings, kept, path, root = Findings(), kept or KeptFiles(), Path(folder), os.path.abspath(folder)
    refuse_unfinished(path)
    for place in (folder, mask.folder):
        if place is not None and os.path.isdir(place) and not follow_links:
            refuse_links_out(str(place), "data.follow_links")
    is_plain = path.is_dir() and not is_saved_dataset(path)
    if is_plain and (tables := _prepared_tables(path)):
        return _read_tables(folder, tables, reading, captions, mask, kept)
    files = visible_files(root, findings) if is_plain else []
    if is_plain and not holds_tables(files):
        source: ImageSource = FolderSource(root)
        entries = read_folder(root, folder, files, reading, findings, captions, mask, folder_repeats)
        advice = CORRECT_FILES.format(prepare=prepare_command(folder))
    else:
        refuse_no_dataset(folder)
        from finetune.data.hub import note_failed_downloads, read_rows, tables_of_archives

        refuse_masks(folder, mask, ("file",))
        note_failed_downloads(tables_of_archives(path, files), findings)
        entries, source = read_rows(str(path), image_column, reading.column, findings, captions)
        advice = f"Correct these rows, or let preparation leave them out: {prepare_command(folder)}"
    records = [_record(*found, reading.edits, findings) for found in probe_all(entries, source, findings, kept)]
    findings.raise_errors(f"data.folder: {folder} cannot be trained on as it is:", advice)
    records.sort(key=lambda record: os.fsencode(record.file_name))
    masks_root = root if mask.folder is None else os.path.abspath(mask.folder)
    masks = FolderSource(masks_root) if mask.kind == "file" else source
    manifest = Manifest(tuple(records), source, folder, findings.warnings, kept=kept)
    return _with_masks(manifest, masks, masks_root, mask, findings)


def _prepared_tables(path: Path) -> list[str]:
    """Return the tables of a prepared folder, none of others."""
    if not any((path / "data").glob("*.parquet")):
        return []
    from finetune.data.parquet import prepared_tables  # pyarrow takes a while to load

    return prepared_tables(os.path.abspath(path))


def _with_masks(
    manifest: Manifest,
    masks: ImageSource,
    root: str,
    mask: MaskConfig,
    findings: Findings,
    known: Mapping[str, str] | None = None,
) -> Manifest:
    """Add the masks, where any are wanted. Raises ValueError with all that is wrong with them."""
    if mask.kind == "none":
        return manifest
    found = checked_masks(manifest.records, masks, root, mask, findings, manifest.kept, known)
    findings.raise_errors("mask: the masks cannot be used as they are:", "Correct or remove them.")
    records = tuple(replace(record, mask=each) for record, each in zip(manifest.records, found, strict=True))
    return replace(manifest, records=records, warnings=findings.warnings, masks=masks)


def _record(entry: Entry, size: tuple[int, int], sha256: str, edits: CaptionEdits, findings: Findings) -> Record:
    captions = edited_captions(entry.file_name, entry.captions, edits, findings)
    return Record(entry.file_name, captions, *size, sha256, entry.weight, entry.repeats, entry.split)


def _read_tables(
    folder: str,
    tables: Sequence[str],
    reading: CaptionReading,
    captions: Literal["listed", "folder", "none"],
    mask: MaskConfig,
    kept: KeptFiles,
) -> Manifest:
    from finetune.data.parquet import MASK_COLUMN, ParquetSource, read_prepared, read_schema

    has_masks = all(MASK_COLUMN in read_schema(os.path.join(folder, table)).names for table in tables)
    refuse_masks(folder, mask, ("alpha",) if has_masks and mask.folder is None else ("alpha", "file"))
    if captions == "folder":
        raise ValueError(f"data.captions: got folder, but the images of {folder} are in tables. Omit data.captions.")
    findings, root = Findings(), os.path.abspath(folder)
    listed = list(read_prepared(root, tables, reading.column, findings, is_captioned=captions == "listed"))
    records = [_record(each.entry, (each.width, each.height), each.sha256, reading.edits, findings) for each in listed]
    advice = "Prepare the images again: python -m datasets_prep --source FOLDER --output PREPARED"
    findings.raise_errors(f"data.folder: {folder} cannot be trained on as it is:", advice)
    if not records:
        raise ValueError(f"data.folder: the tables in {folder}/data have no rows, expected images. {advice}")
    manifest = Manifest(tuple(records), ParquetSource(root, "image"), folder, findings.warnings, kept=kept)
    known = {each.entry.file_name: each.entry.file_name for each in listed if each.has_mask}
    return _with_masks(manifest, ParquetSource(root, MASK_COLUMN), root, mask, findings, known)
