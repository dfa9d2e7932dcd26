"""Speed and memory of preparation: decoding, join of codes, processes.

    python benchmarks/prep.py [--data ../shared/data/photos] [--only decode join scaling rerun memory] [--num 1000000]

Figures, in CPU seconds of one core unless they say otherwise (set OMP_NUM_THREADS=1):

* decode: images a CPU second of `datasets_prep.measure.image` (read, hash, decode, twelve codes, scores) on
  photographs (longest side 768) and on JPEGs of 12 megapixels (quality 90), smooth ones and ones with film grain,
  which have twice the bytes; beside it Pillow alone decoding them at the same
  draft size, in the same run, since machines differ.
* join: `close_pairs` on that many random 256-bit codes with planted neighbours at a radius of 31 bits: CPU seconds,
  peak memory, and the share of the planted pairs that are found.
* scaling: wall time of the measuring with one and with two processes, one after the other.
* rerun: wall time of the command with one worker on so many images, half of them icons and half of them textures, and
  again with 100 more, the measuring, the search for duplicates (fast and thorough) and the report included. With few
  images the start counts: of the 15 CPU seconds that 500 take, 0.7 are the imports and 1.8 a run with one more.
* memory: peak memory of the command on so many small images, and what each more costs.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from datasets_prep.measure.gather import measure_missing
from datasets_prep.measure.image import FEATURE_SIDE, LARGE_SIDE, Look, measure
from datasets_prep.measure.store import as_keys, row_key
from datasets_prep.records import Item
from datasets_prep.sources.detect import open_source
from datasets_prep.workers.pool import PoolEngine
from finetune.data.captions.reading import CaptionReading
from finetune.data.listing import Findings
from finetune.similarity.codes import close_pairs

ROOT = Path(__file__).parents[1]
LOOK = Look(100 * 2**20, 32768, 500_000_000, "white")
ROUNDS = 3
PARTS = ("decode", "join", "scaling", "rerun", "memory")


class Held:
    """A source whose files are in memory."""

    name = "held"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, source: str) -> bytes:
        return self.files[source]


def per_second(work: Callable[[], object], num: int) -> float:
    """Return things per CPU second, the best of some rounds."""
    best = 0.0
    for _ in range(5 * ROUNDS):
        start = time.process_time()
        work()
        best = max(best, num / (time.process_time() - start))
    return best


def photograph(path: Path, grain_levels: float) -> bytes:
    """Return a 12-megapixel JPEG photograph with grain of that deviation."""
    large = np.asarray(Image.open(path).convert("RGB").resize((4000, 3000), Image.Resampling.LANCZOS), dtype=np.int16)
    grain = np.random.default_rng(0).normal(0, grain_levels, (3000, 4000, 1))
    saved = io.BytesIO()
    Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8)).save(saved, "JPEG", quality=90)
    return saved.getvalue()


def decode(data: Path) -> None:
    """Print the throughput of the pass that decodes and measures."""
    photos = {path.name + path.parent.name: path.read_bytes() for path in sorted(data.glob("*/*.jpg"))}
    some = sorted(data.glob("*/*.jpg"))[:4]
    smooth, grainy = ({path.stem: photograph(path, levels) for path in some} for levels in (0, 3))
    for name, files, side in (
        ("768 px", photos, FEATURE_SIDE),
        ("12 MP, smooth", smooth, LARGE_SIDE),
        ("12 MP, grain", grainy, LARGE_SIDE),
    ):

        def whole(files: dict[str, bytes] = files) -> None:
            source: Any = Held(files)
            for key in files:
                measure(source, LOOK, key)

        def alone(files: dict[str, bytes] = files, side: int = side) -> None:
            for held in files.values():
                image = Image.open(io.BytesIO(held))
                image.draft(None, (side, side))
                image.load()

        size = np.mean([len(held) for held in files.values()]) / 1e6
        measured, decoded = per_second(whole, len(files)), per_second(alone, len(files))
        print(f"decode {name:13s} ({size:.2f} MB) measured {measured:6.1f} a CPU second, Pillow alone {decoded:6.1f}")


def join(num: int) -> None:
    """Print what the join of `num` codes costs."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1 << 64, (num, 1, 4), dtype=np.uint64)
    planted = num // 1000
    for place in range(planted):
        bits = np.zeros(256, np.uint8)
        bits[rng.permutation(256)[: rng.integers(0, 32)]] = 1
        codes[num - 1 - place, 0] = codes[place, 0] ^ np.packbits(bits, bitorder="little").view(np.uint64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    pairs = close_pairs(codes, 31)
    seconds = time.process_time() - start
    found = {(int(a), int(b)) for a, b in zip(pairs.first, pairs.second, strict=True)}
    share = sum((place, num - 1 - place) in found for place in range(planted)) / max(1, planted)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"join {num:,} codes at 31 bits: {seconds:.0f} CPU s, peak memory {peak / 2**20:.2f} GB (before: "
        f"{before / 2**20:.2f}), {share:.3%} of {planted:,} planted pairs found, {len(pairs) - planted:+d} others"
    )


def scaling(data: Path) -> None:
    """Print the wall time of measuring with one and two processes."""
    reading = CaptionReading(is_training=False)
    source = open_source((str(data),), reading=reading, image_column="image", output=Path("nowhere"))
    names = [path.relative_to(data).as_posix() for path in sorted(data.glob("*/*.jpg"))]
    seconds = {}
    for workers in (1, 2):
        for _ in range(ROUNDS):
            files = names * 8
            keys = as_keys([row_key("", Item(name, (number,))) for number, name in enumerate(files)])
            with tempfile.TemporaryDirectory() as folder, PoolEngine(workers, 60, 4) as engine:
                start = time.monotonic()
                measure_missing(source, files, keys, Path(folder), engine, LOOK, Findings(), lambda *_: None)
                taken = time.monotonic() - start
            seconds[workers] = min(taken, seconds.get(workers, taken))
    print(f"scaling {len(names) * 8} files: 1 process {seconds[1]:.1f} s, 2 processes {seconds[2]:.1f} s, ", end="")
    print(f"{seconds[1] / seconds[2]:.2f} times as fast")


def drawn(number: int) -> Image.Image:
    """Draw a texture of 512 pixels, or an icon of 64. Odd numbers give icons."""
    rng = np.random.default_rng(number)
    if number % 2:
        icon = Image.new("RGB", (64, 64), "white")
        for _ in range(3):
            place = [*rng.integers(4, 30, 2).tolist(), *rng.integers(32, 60, 2).tolist()]
            ImageDraw.Draw(icon).rectangle(place, fill=tuple(rng.integers(0, 200, 3).tolist()))
        return icon
    layers = [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in (5, 24, 110)]
    layers = [layer.resize((512, 512), Image.Resampling.BICUBIC) for layer in layers]
    return Image.blend(Image.blend(layers[0], layers[1], 0.5), layers[2], 0.25)


def preparation(raw: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start the command."""
    command = [sys.executable, "-m", "datasets_prep", "--source", str(raw), "--output", str(out), *options]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)


def rerun(num: int, num_new: int) -> None:
    """Print the cost of preparing, and again with more images."""
    for level in ("fast", "thorough"):
        with tempfile.TemporaryDirectory() as folder:
            raw, seconds, done = Path(folder) / "raw", [], 0
            raw.mkdir()
            for until in (num, num + num_new):
                for number in range(done, until):
                    drawn(number).save(raw / f"{number:06d}.{'png' if number % 2 else 'jpg'}", quality=92)
                start = time.monotonic()
                status = preparation(raw, Path(folder) / "out", "--workers", "1", "--dedup.level", level).wait()
                assert status == 0, status
                seconds.append(time.monotonic() - start)
                done = until
        share = seconds[1] / seconds[0]
        print(f"rerun {level}: {num:,} images {seconds[0]:.1f} s, {num_new} more {seconds[1]:.1f} s, {share:.1%} of it")


def memory(num: int) -> None:
    """Print the command's peak memory for two numbers of small images."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (num // 4, num):
            raw = Path(folder) / f"raw_{count}"
            raw.mkdir()
            rng = np.random.default_rng(1)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST).save(raw / f"{number:07d}.png")
            _, status, usage = os.wait4(preparation(raw, Path(folder) / f"out_{count}").pid, 0)
            assert status == 0, status
            peaks[count] = usage.ru_maxrss / 2**10
    low, high = sorted(peaks)
    more = (peaks[high] - peaks[low]) / (high - low) * 1e6
    print(f"memory {low:,} images {peaks[low]:.0f} MB, {high:,} images {peaks[high]:.0f} MB: {more:.0f} MB per million")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "photos")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--num", type=int, default=1_000_000, help="codes to join")
    parser.add_argument("--pictures", type=int, default=20_000, help="images to prepare for the memory figure")
    parser.add_argument("--rerun", type=int, default=3_000, help="images to prepare before more are added")
    parser.add_argument("--new", type=int, default=100, help="images to add to them")
    options = parser.parse_args()
    if len(options.only) > 1:  # each in a process of its own, for the peaks of memory
        for part in options.only:
            subprocess.run([sys.executable, *sys.argv, "--only", part], check=True)
        return
    parts: dict[str, Callable[[], None]] = {
        "decode": lambda: decode(options.data),
        "join": lambda: join(options.num),
        "scaling": lambda: scaling(options.data),
        "rerun": lambda: rerun(options.rerun, options.new),
        "memory": lambda: memory(options.pictures),
    }
    parts[options.only[0]]()


if __name__ == "__main__":
    main()
