"""Measurements of every file, as columns; only new files are measured."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import PIL

from datasets_prep.config import LimitsConfig
from datasets_prep.measure import image as measuring
from datasets_prep.measure.columns import MeasuredImages, read_measured
from datasets_prep.measure.image import Look, measure
from datasets_prep.measure.store import KEY_BYTES, TRANSIENT, Store, write_part
from datasets_prep.records import Measured, PrepSource, Rejected
from datasets_prep.texts import Texts
from datasets_prep.workers.pool import Engine, Failure
from finetune.data.images.decode import readable_formats
from finetune.data.listing import Findings

ROWS_A_PART = 512
SECONDS_A_PART = 15.0
"""The most work that is lost when a run is killed."""
Progress = Callable[[str, int, int], None]
"""Called with the stage, the number done and the total."""


def look_of(limits: LimitsConfig, background: str) -> Look:
    """Collect the options that measuring depends on."""
    return Look(limits.pixels, limits.side, int(limits.file_mb * 1e6), background)


def salt_of(look: Look) -> str:
    """Name the versions and options that measurements depend on."""
    formats = tuple(sorted(readable_formats()))  # with those of optional packages
    return repr((measuring.VERSION, PIL.__version__, formats, astuple(look)))


def measure_task(source: PrepSource, look: Look, task: tuple[int, str]) -> Measured | Rejected:
    """Measure one (index, name)."""
    return measure(source, look, task[1])


def measure_missing(
    source: PrepSource,
    names: Sequence[str],
    keys: np.ndarray,
    folder: Path,
    engine: Engine,
    look: Look,
    findings: Findings,
    progress: Progress,
) -> dict[str, Rejected]:
    """Measure files whose keys [N] are not in the folder's store yet. Rejections that may not recur are returned. Rows
    are written every few seconds, also when the run is interrupted."""
    store = Store(folder)
    for path in store.damaged:
        findings.warn("damaged files of measurements, which are made again", path.name)
        path.unlink()
    missing = np.flatnonzero(store.places(keys) < 0)
    raw = keys.view(np.uint8).reshape(-1, KEY_BYTES)
    transient: dict[str, Rejected] = {}
    rows: list[tuple[bytes, Measured | Rejected]] = []
    flushed = time.monotonic()
    tasks = ((int(index), names[int(index)]) for index in missing)
    results = engine.run(functools.partial(measure_task, source, look), tasks)
    try:
        for done, ((index, name), result) in enumerate(results, 1):
            if isinstance(result, Failure):
                transient[name] = Rejected(name, result.kind, result.detail)
            elif isinstance(result, Rejected) and result.reason in TRANSIENT:
                transient[name] = result
            else:
                rows.append((raw[index].tobytes(), result))
            if len(rows) >= ROWS_A_PART or (rows and time.monotonic() - flushed > SECONDS_A_PART):
                write_part(folder, rows)
                rows, flushed = [], time.monotonic()
            progress("measuring", done, len(missing))
    finally:
        if rows:
            write_part(folder, rows)
    return transient


def measured_images(
    names: Texts, keys: np.ndarray, folder: Path, transient: Mapping[str, Rejected]
) -> tuple[MeasuredImages, np.ndarray, list[Rejected]]:
    """Read measurements, which names they belong to, and rejections with reasons. Images keep the order of the
    names."""
    store = Store(folder)
    places = store.places(keys)
    assert int((places < 0).sum()) == len(transient), "a file was neither measured nor left out"
    is_good = places >= 0
    rejected = list(transient.values())
    there = np.flatnonzero(is_good)
    for rows, table in store.parts.rows(places[there], ["reason", "detail"]):
        for row, reason, detail in zip(rows, *table.to_pydict().values(), strict=True):
            if reason is not None:
                index = int(there[row])
                rejected.append(Rejected(names[index], reason, detail))
                is_good[index] = False
    good = np.flatnonzero(is_good)
    return read_measured(store.parts, places[good], names.only(good)), good, rejected
