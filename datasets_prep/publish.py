"""Writes the result so that a kill at any point leaves something that the same command completes."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from datasets_prep.config import PrepConfig
from datasets_prep.kept import Kept, Rows
from datasets_prep.measure import colour
from datasets_prep.records import Prepared
from datasets_prep.report import write_report
from datasets_prep.workplace import LISTINGS, State, file_sha256, num_files, write_state
from datasets_prep.write import (
    picture_bytes,
    remove_others,
    write_files,
    write_listing,
    write_shards,
    write_sidecars,
    write_text,
)
from finetune.disk import put_in_place, unfinished

LARGEST_FOLDER = 10_000
"""Pictures; above it the format auto writes shards."""
OWN_NAME = re.compile(r"[0-9a-f]{32}\.\w+")


def publish(
    config: PrepConfig,
    output: Path,
    own: Path,
    state: State,
    prepared: Prepared,
    kept: Kept,
    read: Callable[[str], bytes],
    load: Callable[[str], Image.Image | None],
) -> State:
    """Writes pictures, listings, card and report; returns the state that says so.

    Pictures come first under names that stand for their content, listings replace the earlier ones then, and what these
    named goes last.
    """
    background = colour(config.background)

    def content(row: Mapping[str, object]) -> bytes:
        return picture_bytes(read, row, config.write.reencode, background)

    earlier = {name: file_sha256(output / name) for name in LISTINGS if (output / name).exists()}
    write_state(own, replace(state, earlier=earlier))
    if is_parquet(config, len(kept)):
        rows, files = in_shards(config, output, own, kept, content)
    else:
        rows = kept.rows()
        write_files(output, rows, content)
        names = {kept.stored_name(place) for place in range(len(kept))}
        if config.write.txt:
            names |= {Path(name).name for name in write_sidecars(output, rows)}
        files = {"images": names}
    listings = {}
    for name, lines, is_ascii in (("metadata.jsonl", rows, False), ("rejected.jsonl", prepared.rejected, True)):
        listings[name] = write_listing(output / name, lines, is_ascii=is_ascii)
    write_state(own, replace(state, listings=listings, earlier=earlier))
    for name in listings:
        put_in_place(unfinished(output / name), output / name)
    write_text(output / "README.md", card(config, prepared, files))
    tidy(output, files)
    write_report(output / "report.html", replace(prepared, kept=rows), load)
    done = replace(
        state, listings=listings, is_done=True, files={folder: num_files(output / folder) for folder in files}
    )
    write_state(own, done)
    return done


def is_parquet(config: PrepConfig, num_pictures: int) -> bool:
    """Whether shards are written."""
    return config.write.format == "parquet" or (config.write.format == "auto" and num_pictures > LARGEST_FOLDER)


def in_shards(
    config: PrepConfig, output: Path, own: Path, kept: Kept, content: Callable[[Mapping[str, object]], bytes]
) -> tuple[Rows, dict[str, set[str]]]:
    """Writes OUTPUT/data/*.parquet, sorted by training size; returns the rows with their places in there."""
    folder = own / "shards"
    shutil.rmtree(folder, ignore_errors=True)
    order = np.array(sorted(range(len(kept)), key=lambda place: (kept.sizes[place], place)), dtype=np.int64)
    is_validation = np.zeros(len(kept), bool) if kept.is_held_out is None else kept.is_held_out
    shard_of, row_of = np.zeros(len(kept), np.int32), np.zeros(len(kept), np.int32)
    names: dict[str, int] = {}
    for side, members in (("train", order[~is_validation[order]]), ("validation", order[is_validation[order]])):
        shards = write_shards(folder, side, members.tolist(), kept.rows(), content, config.write.shard_mb)
        for name, row, place in shards:
            shard_of[place], row_of[place] = names.setdefault(name, len(names)), row
    data, old = output / "data", own / "old_shards"
    shutil.rmtree(old, ignore_errors=True)
    if data.exists():
        data.rename(old)
    folder.rename(data)
    shutil.rmtree(old, ignore_errors=True)
    listed = list(names)
    return kept.rows(lambda place: f"data/{listed[shard_of[place]]}#{row_of[place]:08d}"), {"data": set(names)}


def tidy(output: Path, files: Mapping[str, set[str]]) -> None:
    """Removes pictures and shards that an earlier run wrote and this one does not list; other files stay."""
    if "data" in files:
        remove_others(output / "images", set(), OWN_NAME)
    else:
        remove_others(output / "images", files["images"], OWN_NAME)
        remove_others(output / "data", set(), re.compile(r"(train|validation)-\d{5}\.parquet"))
    for name in ("images", "data"):
        folder = output / name
        if name not in files and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def card(config: PrepConfig, prepared: Prepared, files: Mapping[str, set[str]]) -> str:
    """Returns README.md, by which `datasets.load_dataset(OUTPUT)` knows what to load."""
    sides = sorted({name.partition("-")[0] for name in files.get("data", ())})
    paths = [{"split": side, "path": f"data/{side}-*.parquet"} for side in sides]
    head = ["---"]
    if paths:
        head.append("configs: " + json.dumps([{"config_name": "default", "data_files": paths}]))
    else:
        head.append("configs: " + json.dumps([{"config_name": "default", "data_dir": "."}]))
    head.append("---")
    lines = [f"# {prepared.name}", "", f"{len(prepared.kept):,} pictures, prepared with `python -m datasets_prep`.", ""]
    lines += ["| stage | in | out | |", "| --- | ---: | ---: | --- |"]
    lines += [f"| {stage} | {before:,} | {after:,} | {said} |" for stage, before, after, said in prepared.figures]
    lines += [
        "",
        "`metadata.jsonl` lists the pictures, `rejected.jsonl` what was left out and why, `report.html` shows both.",
    ]
    return "\n".join([*head, *lines]) + "\n"
