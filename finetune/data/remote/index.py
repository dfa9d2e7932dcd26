"""The index of remote shards, built once and then cached."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.images.decode import readable_formats
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import Findings
from finetune.data.remote.records import open_index
from finetune.data.remote.shard import IndexedImage, ShardReading
from finetune.data.remote.storage import RemoteFile, Storage, is_hidden
from finetune.data.remote.tables import index_table
from finetune.data.remote.tars import index_tar
from finetune.data.remote.turns import alone
from finetune.data.remote.upload_mark import refuse_unfinished
from finetune.files import aside, write_atomically, writing
from finetune.plurals import plural

if TYPE_CHECKING:
    from pyarrow import Schema, Table

VERSION = 1
"""Increased whenever an index would have other contents."""
READERS = {".tar": index_tar, ".parquet": index_table}
SPLIT = re.compile(r"(?:^|[/_.-])(train|training|test|testing|validation|valid|val|dev|eval)(?=[/_.-])")
TRAIN = ("train", "training")
PREPARED = ("metadata.jsonl", "rejected.jsonl")
"""Beside the tables of a prepared dataset, which have the images that are held out in tables of their own."""
CORRECT = "Correct these shards, or prepare the images again: python -m datasets_prep --source FOLDER --output PREPARED"


def build_index(storage: Storage, options: ShardReading, findings: Findings, kept: KeptFiles, cache: Path) -> Path:
    """Return the index of a URL's shards, and build it where absent.

    It is kept by the names, sizes and stamps of its shards, and each shard's part by its own, so only changed shards
    are read again, and a kill costs those that were being read. One process of a machine builds, others wait for it.
    Raises ValueError with all that is wrong with the images.
    """
    shards = _training_shards(storage, findings)
    folder = cache / "remote"
    parts = {shard: folder / f"{_key(storage.url, options, shard)}.part.arrow" for shard in shards}
    index = folder / f"{_key(*map(str, parts.values()))}.arrow"
    with writing(index):
        folder.mkdir(parents=True, exist_ok=True)
    if not index.is_file():
        waiting = f"data.folder: waiting for another process that reads the shards of {storage.url}."
        with alone(folder / f"{index.stem}.lock", waiting):
            if not index.is_file():
                _note_changes(storage, folder / f"{_key(storage.url, options)}.json", shards, findings)
                _build_parts(storage, options, parts, findings, kept)
                findings.raise_errors(f"data.folder: {storage.url} cannot be trained on as it is:", CORRECT)
                _join(parts, index)
    table = open_index(index)
    if table.num_rows == 0:
        raise ValueError(f"data.folder: the shards of {storage.url} have no images. Give another folder.")
    findings.add_counted(_warnings(table))
    return index


def _training_shards(storage: Storage, findings: Findings) -> list[RemoteFile]:
    """List the shards. Where some are called train, those of other splits are omitted with a warning, except those of a
    prepared dataset, whose rows name their split."""
    listed = storage.all_files()
    refuse_unfinished(storage, listed)
    files = [file for file in listed if not is_hidden(file.name)]
    shards = [file for file in files if _suffix(file) in READERS]
    if not shards:
        raise ValueError(
            f"data.folder: there are no .parquet or .tar files below {storage.url}, of {plural(len(files), 'file')} "
            "there; expected Parquet tables or uncompressed WebDataset archives. Check the spelling, or prepare the "
            "images (python -m datasets_prep --source FOLDER --output PREPARED) and upload the folder."
        )
    shards = _without_tables_of_archives(shards, findings)
    kinds = sorted({_suffix(shard) for shard in shards})
    if len(kinds) > 1:
        raise ValueError(
            f"data.folder: {storage.url} has both {' and '.join(kinds)} files, expected one kind. Give the folder of "
            "one of them, or list both in data.folders."
        )
    if all(shard.name.startswith("data/") for shard in shards) and {file.name for file in files}.issuperset(PREPARED):
        return shards
    splits = {shard: SPLIT.search(shard.name.lower()) for shard in shards}
    chosen = [shard for shard, found in splits.items() if found is not None and found[1] in TRAIN]
    for shard, found in splits.items() if chosen else ():
        if found is None or found[1] not in TRAIN:
            findings.warn("shards that are not read beside those called train", shard.name)
    return chosen or shards


def _without_tables_of_archives(shards: Sequence[RemoteFile], findings: Findings) -> list[RemoteFile]:
    """Omit tables that have the names of archives, as img2dataset writes them."""
    archives = {os.path.splitext(shard.name)[0] for shard in shards if _suffix(shard) == ".tar"}
    tables = [shard for shard in shards if _suffix(shard) == ".parquet" and os.path.splitext(shard.name)[0] in archives]
    for table in tables:
        findings.warn("tables beside archives of the same name, which are not read", table.name)
    return [shard for shard in shards if shard not in tables]


def _suffix(file: RemoteFile) -> str:
    return os.path.splitext(file.name)[1].lower()


def _key(*parts: object) -> str:
    described = [VERSION, sorted(readable_formats()), *map(repr, parts)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:40]


def _note_changes(storage: Storage, path: Path, shards: Sequence[RemoteFile], findings: Findings) -> None:
    """Warn of shards that changed since the last index of this URL."""
    now = {shard.name: [shard.size, shard.stamp] for shard in shards}
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, facts in before.items():
        if name not in now:
            findings.warn("shards that were removed since they were last read", name)
        elif now[name] != facts:
            findings.warn("shards that changed since they were last read, and are read again", name)
    write_atomically(path, json.dumps(now))


def _build_parts(
    storage: Storage, options: ShardReading, parts: dict[RemoteFile, Path], findings: Findings, kept: KeptFiles
) -> None:
    missing = [shard for shard, path in parts.items() if not path.is_file()]
    size = sum(shard.size for shard in missing)
    if missing:
        _say(
            f"data.folder: reading {plural(len(missing), 'shard')} of {storage.url} once ({size / 1e6:,.1f} MB), "
            f"{len(parts) - len(missing)} of {len(parts)} known."
        )

    def build(shard: RemoteFile) -> Findings:
        found = Findings()
        images = READERS[_suffix(shard)](storage, shard, options, found, kept)
        if not found.has_errors:
            _write(_as_table(images, found), parts[shard])
        return found

    with ThreadPoolExecutor(max_workers=min(16, 4 * (os.cpu_count() or 1))) as pool:
        for found in pool.map(build, missing):
            findings.add_errors(found)


def _as_table(images: Sequence[IndexedImage], findings: Findings) -> "Table":
    import pyarrow

    rows = [
        {name: getattr(image.entry, name) for name in ("file_name", "captions", "weight", "repeats", "split")}
        | {name: getattr(image, name) for name in ("width", "height", "start", "length", "group", "row")}
        | {"sha256": bytes.fromhex(image.sha256), "shard": 0}
        for image in images
    ]
    warnings = json.dumps(findings.counted)
    return pyarrow.Table.from_pylist(rows, _schema()).replace_schema_metadata({"warnings": warnings})


def _schema() -> "Schema":
    import pyarrow as pa

    texts, whole, wide = pa.large_string(), pa.int32(), pa.int64()
    return pa.schema(
        {"file_name": texts, "captions": pa.list_(texts), "weight": pa.float64(), "repeats": whole}
        | {"split": pa.string(), "width": whole, "height": whole, "sha256": pa.binary(32)}
        | {"shard": whole, "start": wide, "length": wide, "group": whole, "row": whole}
    )


def _join(parts: dict[RemoteFile, Path], index: Path) -> None:
    """Write all parts as one table, sorted by file names."""
    import pyarrow

    warned, tables = Findings(), []
    for number, path in enumerate(parts.values()):
        table = open_index(path)
        warned.add_counted(_warnings(table))
        column = table.schema.get_field_index("shard")
        tables.append(table.set_column(column, "shard", pyarrow.array([number] * table.num_rows, pyarrow.int32())))
    joined = pyarrow.concat_tables([each.replace_schema_metadata() for each in tables]).sort_by("file_name")
    shards = [[shard.name, shard.size, shard.stamp] for shard in parts]
    facts = {"shards": json.dumps(shards), "warnings": json.dumps(warned.counted)}
    _write(joined.combine_chunks().replace_schema_metadata(facts), index)


def _warnings(table: "Table") -> dict[str, tuple[int, list[str]]]:
    return json.loads((table.schema.metadata or {})[b"warnings"])


def _write(table: "Table", path: Path) -> None:
    import pyarrow

    temporary = aside(path)
    with writing(path, table.nbytes):
        try:
            with pyarrow.OSFile(str(temporary), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _say(text: str) -> None:
    """Print beside the output, which may be JSON."""
    print(text, file=sys.stderr, flush=True)
