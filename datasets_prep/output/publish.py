"""The result on disk. After a kill at any point the same command completes it."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets_prep.config import PrepConfig
from datasets_prep.measure.image import colour
from datasets_prep.output.folder import LISTINGS, State, check_unedited, extent, is_own, read_state, write_state
from datasets_prep.output.images import IMAGE_FOLDERS, image_bytes, remove_others, write_files, write_masks
from datasets_prep.output.listings import write_listing, write_side_listings, write_sidecars, write_text
from datasets_prep.output.shards import write_shards
from datasets_prep.records import Prepared
from datasets_prep.report.build import write_report
from datasets_prep.report.thumbnails import SmallImage
from datasets_prep.rows import Kept, LazyRows
from finetune.data.visible_files import MASK_SUFFIX
from finetune.files import file_sha256, put_in_place, sync, unfinished
from finetune.plurals import plural

LARGEST_FOLDER = 10_000
"""Images above which the format auto writes shards."""
CARD = "README.md"
OWN_FILE = re.compile(rf"[0-9a-f]{{32}}({MASK_SUFFIX})?\.\w+|metadata\.jsonl")
OWN_SHARD = re.compile(r"(train|validation)-\d{5}\.parquet")
OWN_TEMPORARY = re.compile(r"tmp-report\.html-([A-Za-z0-9-]*-)?\d+(-[0-9a-f]{8})?")
"""What a kill leaves of `files.aside`, and of version 0.1. Names are matched without the dot in front."""


def publish(
    config: PrepConfig,
    output: Path,
    own: Path,
    state: State,
    prepared: Prepared,
    kept: Kept,
    read: Callable[[str], bytes],
    load: Callable[[str], SmallImage | None],
) -> None:
    """Write images, listings, card and report, then the final state. Images come first, under names that depend on
    their content; then new listings replace the earlier ones; files that only these listed go last."""
    background = colour(config.background)

    def content(row: Mapping[str, object]) -> bytes:
        return image_bytes(read, row, config.write.reencode, background)

    before = read_state(own)
    check_unedited(output, before)
    replaced = [name for name in (*LISTINGS, CARD) if is_own(output / name, before)]
    earlier = {name: file_sha256(output / name) for name in replaced if (output / name).exists()}
    write_state(own, replace(state, earlier=earlier))
    if is_parquet(config, len(kept)):
        mask_rows = {str(row["source"]): row for row in kept.mask_rows()}

        def mask_content(row: Mapping[str, object]) -> bytes:
            return image_bytes(read, mask_rows[str(row["mask"])], "no", background)

        rows, files = in_shards(config, output, own, kept, content, mask_content if mask_rows else None)
    else:
        rows = kept.rows()
        sizes = None if config.write.reencode != "no" else kept.images.num_bytes[kept.indices]
        write_files(output, rows, content, sizes)
        names = [kept.file_name(place) for place in range(len(kept))]
        names += write_masks(output, kept.mask_rows(), lambda row: image_bytes(read, row, "no", background))
        names += write_sidecars(output, rows) if config.write.txt else []
        names += write_side_listings(output, rows) if kept.has_split else []
        files: dict[str, set[str]] = {}
        for folder, _, name in (name.partition("/") for name in names):
            files.setdefault(folder, set()).add(name)
    listings = {}
    for name, lines, is_ascii in (("metadata.jsonl", rows, False), ("rejected.jsonl", prepared.rejected, True)):
        listings[name] = write_listing(output / name, lines, is_ascii=is_ascii)
    text = card(prepared, files)
    state = replace(state, listings=listings | {CARD: hashlib.sha256(text.encode()).hexdigest()}, earlier=earlier)
    write_state(own, state)
    for name in listings:
        put_in_place(unfinished(output / name), output / name)
    if CARD in replaced:  # else a user wrote another
        write_text(output / CARD, text)
    tidy(output, files)
    write_report(output / "report.html", replace(prepared, kept=rows), load)
    write_state(own, replace(state, is_done=True, files={folder: extent(output / folder) for folder in files}))


def is_parquet(config: PrepConfig, num_pictures: int) -> bool:
    """True if shards are written."""
    is_large = num_pictures > LARGEST_FOLDER and not config.write.txt
    return config.write.format == "parquet" or (config.write.format == "auto" and is_large)


def in_shards(
    config: PrepConfig,
    output: Path,
    own: Path,
    kept: Kept,
    content: Callable[[Mapping[str, object]], bytes],
    mask_content: Callable[[Mapping[str, object]], bytes] | None,
) -> tuple[LazyRows, dict[str, set[str]]]:
    """Write OUTPUT/data/*.parquet, sorted by training size. Returns the rows with their places in the shards."""
    folder = own / "shards"
    shutil.rmtree(folder, ignore_errors=True)
    order = sorted(range(len(kept)), key=lambda place: (kept.sizes[place], place))
    splits = {"train": [place for place in order if kept.split(place) != "validation"]}
    splits["validation"] = [place for place in order if kept.split(place) == "validation"]
    shard_of, row_of = np.zeros(len(kept), np.int32), np.zeros(len(kept), np.int32)
    names: dict[str, int] = {}
    num_bytes = kept.images.num_bytes[kept.indices]
    for split, places in splits.items():
        shards = write_shards(
            folder, split, places, num_bytes, kept.rows(), content, config.write.shard_mb, mask_content
        )
        for name, row, place in shards:
            shard_of[place], row_of[place] = names.setdefault(name, len(names)), row
    data = output / "data"
    data.mkdir(exist_ok=True)
    for name in names:
        (folder / name).replace(data / name)
    sync(data)
    shutil.rmtree(folder)
    listed = list(names)
    return kept.rows(lambda place: f"data/{listed[shard_of[place]]}#{row_of[place]:08d}"), {"data": set(names)}


def tidy(output: Path, files: Mapping[str, set[str]]) -> None:
    """Remove earlier images and shards that are no longer listed. Other files stay."""
    remove_others(output, (), OWN_TEMPORARY)
    for name, own_name in [*dict.fromkeys(IMAGE_FOLDERS, OWN_FILE).items(), ("data", OWN_SHARD)]:
        folder = output / name
        remove_others(folder, files.get(name, ()), own_name)
        if name not in files and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def card(prepared: Prepared, files: Mapping[str, set[str]]) -> str:
    """Write README.md, which lets `datasets.load_dataset(OUTPUT)` find the data."""
    splits = sorted({name.partition("-")[0] for name in files.get("data", ())})
    paths = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    config = {"config_name": "default"} | ({"data_files": paths} if paths else {"data_dir": "."})
    figures = [f"\n| {stage} | {before:,} | {after:,} | {said} |" for stage, before, after, said in prepared.figures]
    return f"""---
configs: {json.dumps([config])}
---
# {prepared.name}

{plural(len(prepared.kept), "image")}, prepared with `python -m datasets_prep`.

| stage | in | out | |
| --- | ---: | ---: | --- |{"".join(figures)}

`metadata.jsonl` lists the images, `rejected.jsonl` what was left out and why, `report.html` shows both.
"""
