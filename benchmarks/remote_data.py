"""The index of remote images: seconds, requests, and memory per image.

    .venv/bin/python benchmarks/remote_data.py --images 5000

It serves the images itself (moto, on this machine), in archives, in tables as `datasets` writes them, and in tables of
preparation. The figures are those of a slow server and a fast network: count requests, not seconds.
"""

import argparse
import contextlib
import gc
import io
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from finetune.data.kept_files import KeptFiles
from finetune.data.manifest import Manifest, read_manifest
from finetune.data.remote.storage import Storage
from tests.support.remote import bucket, table, tar

PER_SHARD = 1000
READ = 500
PLAIN = {"compression": "none", "use_dictionary": False}


def images(first: int, num: int) -> dict[str, bytes]:
    """Draw tiny images, all different."""
    found: dict[str, bytes] = {}
    for number in range(first, first + num):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8 + number % 3, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        found[f"{number:08d}.png"] = buffer.getvalue()
    return found


def shard(kind: str, first: int, num: int) -> tuple[str, bytes]:
    """Return the name and the bytes of a shard."""
    drawn = images(first, num)
    captions = [f"a pattern of colours, number {number}" for number in range(first, first + num)]
    if kind == "archives":
        files: dict[str, bytes] = {}
        for (name, data), caption in zip(drawn.items(), captions, strict=True):
            files |= {name: data, f"{name[:-4]}.txt": caption.encode()}
        return f"{first:08d}.tar", tar(files)
    return f"train-{first:08d}.parquet", table(drawn, captions, prepared=kind == "prepared", group=64, **PLAIN)


@contextlib.contextmanager
def counted() -> Iterator[list[int]]:
    """Count the ranges that are read, and their bytes."""
    found, read = [0, 0], Storage.read

    def counting(self: Storage, name: str, start: int, stop: int) -> bytes:
        found[0] += 1
        found[1] += stop - start
        return read(self, name, start, stop)

    Storage.read = counting
    try:
        yield found
    finally:
        Storage.read = read


def own_bytes() -> int:
    """Return what Python and Arrow have allocated; mapped files do not count."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0] + pyarrow.total_allocated_bytes()


def line(what: str, facts: Mapping[str, object]) -> None:
    print(f"{what:<22}" + "  ".join(f"{name} {value}" for name, value in facts.items()), flush=True)


def measured(kind: str, url: str, num: int, cache: Path) -> None:
    """Build an index, open it again, and read some of its images."""
    with counted() as requests:
        began = time.perf_counter()
        read_manifest(url, kept=KeptFiles(cache=cache))
        seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in (cache / "remote").glob("*.arrow") if ".part" not in path.name)
    facts = {"seconds": f"{seconds:.1f}", "requests/image": f"{requests[0] / num:.4f}"}
    line(f"{kind}: index", facts | {"bytes on disk/image": f"{size / num:.0f}"})

    began = time.perf_counter()
    read_manifest(url, kept=KeptFiles(cache=cache))
    seconds = time.perf_counter() - began
    tracemalloc.start()
    before = own_bytes()
    manifest: Manifest = read_manifest(url, kept=KeptFiles(cache=cache))
    mapped = own_bytes() - before
    held = tuple(manifest.records)
    facts = {"seconds": f"{seconds:.2f}", "own memory/image": f"{mapped / num:.0f} bytes"}
    line(f"{kind}: again", facts | {"as Python objects": f"{(own_bytes() - before - mapped) / num:.0f} bytes"})
    del held
    tracemalloc.stop()

    order = np.random.default_rng(0).permutation(num)[:READ].tolist()
    for name, chosen in (("in order", range(min(num, READ))), ("shuffled", order)):
        with counted() as requests:
            began = time.perf_counter()
            for index in chosen:
                manifest.source.read(manifest.records[index].file_name)
            seconds = time.perf_counter() - began
        per = {"ms/image": seconds * 1000, "requests/image": requests[0], "bytes/image": requests[1]}
        numbers = {each: f"{value / len(chosen):,.3f}" for each, value in per.items()}
        line(f"{kind}: {name}", numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    num = parser.parse_args().images
    with bucket() as storage, tempfile.TemporaryDirectory() as folder:
        for kind in ("archives", "tables", "prepared"):
            url = storage.put(kind, {})
            for first in range(0, num, PER_SHARD):
                name, data = shard(kind, first, min(PER_SHARD, num - first))
                storage.put(kind, {name: data})
            measured(kind, url, num, Path(folder) / kind)
    print(f"{num:,} images, shards of {PER_SHARD:,}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
