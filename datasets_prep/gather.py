"""Runs the measuring of every file that was not measured before, and hands out all results as columns."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import PIL

from datasets_prep import measure as measuring
from datasets_prep.config import LimitsConfig
from datasets_prep.engine import Engine, Failure
from datasets_prep.measure import Look, measure
from datasets_prep.records import Item, Measured, PrepSource, Rejected
from datasets_prep.store import KEY_BYTES, TRANSIENT, Pictures, Store, as_pictures, row_key, write_part

ROWS_A_PART = 512
SECONDS_A_PART = 15.0
"""What a kill costs at most."""
Progress = Callable[[str, int, int], None]
"""Called with what is going on, how much is done and how much there is."""


def look_of(limits: LimitsConfig, background: str) -> Look:
    """Returns the options that measuring depends on."""
    return Look(limits.pixels, limits.side, int(limits.file_mb * 1e6), background)


def salt_of(look: Look) -> str:
    """Returns what, beside the file, decides the figures: versions and options."""
    return repr((measuring.VERSION, PIL.__version__, measuring.plugins(), astuple(look)))


def measure_missing(
    source: PrepSource, items: Sequence[Item], folder: Path, engine: Engine, look: Look, progress: Progress
) -> dict[str, Rejected]:
    """Measures those of the items that the folder's store has no row for; returns those that another try may change.

    Rows are written every few seconds, also where the run is interrupted.
    """
    salt = salt_of(look)
    keys = [row_key(salt, item) for item in items]
    missing = np.flatnonzero(Store(folder).places(np.array(keys, f"S{KEY_BYTES}")) < 0).tolist()
    key_of = {items[index].source: keys[index] for index in missing}
    transient: dict[str, Rejected] = {}
    rows: list[tuple[bytes, Measured | Rejected]] = []
    flushed = time.monotonic()
    results = results_of(engine, source, look, [items[index].source for index in missing])
    try:
        for done, (name, result) in enumerate(results, 1):
            if isinstance(result, Rejected) and result.reason in TRANSIENT:
                transient[name] = result
            else:
                rows.append((key_of[name], result))
            if len(rows) >= ROWS_A_PART or (rows and time.monotonic() - flushed > SECONDS_A_PART):
                write_part(folder, rows)
                rows, flushed = [], time.monotonic()
            progress("measuring", done, len(missing))
    finally:
        if rows:
            write_part(folder, rows)
    return transient


def results_of(
    engine: Engine, source: PrepSource, look: Look, names: Sequence[str]
) -> Iterator[tuple[str, Measured | Rejected]]:
    """Yields every name with its result, in any order; a failure of its process is a reason too."""
    for name, result in engine.run(functools.partial(measure, source, look), names):
        yield name, Rejected(name, result.kind, result.detail) if isinstance(result, Failure) else result


def all_pictures(
    items: Sequence[Item], folder: Path, look: Look, transient: dict[str, Rejected]
) -> tuple[Pictures, list[Rejected]]:
    """Returns what decodes, in the order of the items, and the rest with its reasons."""
    store, salt = Store(folder), salt_of(look)
    places = store.places(np.array([row_key(salt, item) for item in items], f"S{KEY_BYTES}"))
    lost = [
        item.source for item, place in zip(items, places, strict=True) if place < 0 and item.source not in transient
    ]
    assert not lost, lost[:3]
    there = np.flatnonzero(places >= 0)
    table = store.take(places[there])
    is_rejected = table["reason"].is_valid().to_numpy()
    rejected = list(transient.values())
    for row in np.flatnonzero(is_rejected):
        reason, detail = table["reason"][int(row)].as_py(), table["detail"][int(row)].as_py()
        rejected.append(Rejected(items[there[row]].source, reason, detail))
    good = np.flatnonzero(~is_rejected)
    if len(good) < len(table):
        table = table.take(good).combine_chunks()
    return as_pictures([items[there[row]].source for row in good], table), rejected
