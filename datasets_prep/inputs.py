"""The files of a source, listed and measured."""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets_prep.captions.own import refuse_lost_captions, with_folder_repeats
from datasets_prep.config import PrepConfig
from datasets_prep.measure.columns import MeasuredImages
from datasets_prep.measure.gather import Progress, look_of, measure_missing, measured_images, salt_of
from datasets_prep.measure.store import as_keys, row_key
from datasets_prep.records import PrepSource, Rejected
from datasets_prep.source_metadata import SourceMetadata, metadata_of
from datasets_prep.texts import Texts
from datasets_prep.workers.pool import Engine, PoolEngine, usable_cores
from datasets_prep.workers.ray_cluster import RayEngine
from finetune.data.listing import Findings

VERSION = 8
"""Increased when the same input gives another result."""


@dataclass(frozen=True)
class Files:
    """Files of a source, as columns."""

    names: Texts
    keys: np.ndarray  # [N] keys in the store of measurements
    rejected: Sequence[Rejected]
    inputs: str
    """Hash of all that the result depends on; sizes and times represent contents."""


def list_files(config: PrepConfig, source: PrepSource, others: Sequence[str], findings: Findings) -> Files:
    """List the files of the source, with a hash of all inputs. The hash includes files, options and `others`."""
    listing = source.listing(findings)
    salt = salt_of(look_of(config.limits, config.background))
    same = replace(config, workers=0, engine="pool", shard=None, output=Path(), work=None, source=("any",))
    inputs = hashlib.sha256(ascii((VERSION, salt, same, source.name, *others)).encode())
    for entry in [*listing.items, *listing.rejected]:
        inputs.update(ascii(entry).encode())
    names = Texts(item.source for item in listing.items)
    keys = as_keys([row_key(salt, item) for item in listing.items])
    return Files(names, keys, list(listing.rejected), inputs.hexdigest())


def measure_all(
    config: PrepConfig, source: PrepSource, own: Path, files: Files, findings: Findings, progress: Progress
) -> tuple[MeasuredImages, SourceMetadata, list[Rejected]] | int:
    """Measure the images. Returns them, their metadata and unreadable files; for a shard its number of files."""
    entries = with_folder_repeats(source.entries(files.names, findings), config.folder_repeats, findings)
    refuse_lost_captions(files.rejected, entries, findings)
    advice = "Or leave these files out of the source. Nothing was prepared."
    findings.raise_errors(f"source: {', '.join(config.source)} cannot be prepared as it is:", advice)
    chosen = np.flatnonzero([name in entries for name in files.names])
    chosen = chosen if config.shard is None else shard_of(chosen, config.shard)
    names, keys = files.names.only(chosen), files.keys[chosen]
    look = look_of(config.limits, config.background)
    with engine_of(config) as engine:
        transient = measure_missing(source, names, keys, own / "measured", engine, look, findings, progress)
    if config.shard is not None:
        return len(names)
    metadata = metadata_of(names, entries)
    del entries  # hundreds of bytes per file
    images, good, unreadable = measured_images(names, keys, own / "measured", transient)
    return images, metadata.only(good), [*files.rejected, *unreadable]


def engine_of(config: PrepConfig) -> AbstractContextManager[Engine]:
    """Return the processes that measure."""
    if config.engine == "ray":
        return RayEngine(None, config.limits.seconds, config.limits.memory_gb)
    return PoolEngine(config.workers or usable_cores(), config.limits.seconds, config.limits.memory_gb)


def shard_of(places: np.ndarray, shard: str) -> np.ndarray:
    """Return the i-th of n parts of an array. Neighbours stay together, because tables are read in groups of rows."""
    number, _, total = shard.partition("/")
    start, end = (len(places) * part // int(total) for part in (int(number) - 1, int(number)))
    return places[start:end]
