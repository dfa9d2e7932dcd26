"""Measurements of all images as columns."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets_prep.measure.image import SCORES
from datasets_prep.measure.store import CODE_BYTES, CODES, HASH_BYTES, ONE_CODE_BYTES, Parts, fixed_bytes


@dataclass(frozen=True)
class MeasuredImages:
    """Images that decode, by name, as columns. They take about 200 bytes per image."""

    sources: Sequence[str]
    sha256: np.ndarray  # [N 32] uint8
    pixels_sha256: np.ndarray  # [N 32] uint8
    num_bytes: np.ndarray
    width: np.ndarray
    height: np.ndarray
    scores: np.ndarray  # [N S] float32, one column per name in SCORES
    suffixes: Sequence[str]
    suffix: np.ndarray  # [N] uint8, an index into `suffixes`
    notes: Mapping[int, tuple[str, ...]]
    captions: Mapping[int, str]
    """Captions found inside the files."""
    parts: Parts
    places: np.ndarray  # [N] their rows there

    def __len__(self) -> int:
        return len(self.sources)

    def score(self, name: str) -> np.ndarray:
        return self.scores[:, SCORES.index(name)]

    def hex(self, index: int) -> str:
        """Format the SHA-256 of an image's bytes in hex."""
        return self.sha256[index].tobytes().hex()

    def seen(self, index: int) -> bytes:
        """Return a key for an image's pixels, including the background's colour."""
        return hashlib.sha256(self.sha256[index].tobytes() + self.pixels_sha256[index].tobytes()).digest()

    def codes(self, folder: Path) -> "StoredCodes":
        """Copy the codes into a temporary file of a folder. Close the result when done."""
        return StoredCodes(self, folder)


class StoredCodes:
    """Codes [N 12 4] (uint64) on disk, 384 bytes per image. One kind or some images are read at a time. The file has
    one block per block of the store; codes of one kind are adjacent in it."""

    def __init__(self, images: MeasuredImages, folder: Path) -> None:
        self.shape = len(images), *CODES
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as this object
        self._blocks: list[np.ndarray] = []
        """The images in each block."""
        self._block = np.empty(len(images), np.int32)
        self._place = np.empty(len(images), np.int32)
        for rows, table in images.parts.rows(images.places, ["codes"]):
            codes = fixed_bytes(table["codes"], CODE_BYTES).view(np.uint64).reshape(-1, *CODES)
            self._file.write(codes.transpose(1, 0, 2).tobytes())
            self._block[rows], self._place[rows] = len(self._blocks), np.arange(len(rows))
            self._blocks.append(rows.astype(np.int32))
        self._starts = np.cumsum([0, *(len(rows) * CODE_BYTES for rows in self._blocks)])

    def close(self) -> None:
        self._file.close()

    def __getitem__(self, key: int | np.ndarray | tuple[slice, int]) -> np.ndarray:
        if isinstance(key, tuple):
            chosen, kind = key
            return self._of_kind(kind)[chosen]
        if isinstance(key, np.ndarray):
            return np.stack([self._of_kind(kind)[key] for kind in range(CODES[0])], axis=1)
        block = int(self._block[key])
        size = len(self._blocks[block]) * ONE_CODE_BYTES
        start = int(self._starts[block]) + int(self._place[key]) * ONE_CODE_BYTES
        return np.stack([self._read(start + kind * size, ONE_CODE_BYTES)[0] for kind in range(CODES[0])])

    def _of_kind(self, kind: int) -> np.ndarray:
        codes = np.empty((self.shape[0], CODES[1]), np.uint64)
        for rows, start in zip(self._blocks, self._starts.tolist(), strict=False):
            size = len(rows) * ONE_CODE_BYTES
            codes[rows] = self._read(start + kind * size, size)
        return codes

    def _read(self, start: int, size: int) -> np.ndarray:
        self._file.seek(start)
        return np.frombuffer(self._file.read(size), np.uint64).reshape(-1, CODES[1])


def read_measured(parts: Parts, places: np.ndarray, sources: Sequence[str]) -> MeasuredImages:
    """Read rows of the store as columns. None of them may be a rejection."""
    num = len(places)
    hashes = {name: np.empty((num, HASH_BYTES), np.uint8) for name in ("sha256", "pixels_sha256")}
    kinds = {"num_bytes": np.int64, "width": np.int32, "height": np.int32}
    numbers = {name: np.empty(num, kind) for name, kind in kinds.items()}
    scores, suffix, suffixes = np.empty((num, len(SCORES)), np.float32), np.empty(num, np.uint8), {}
    notes: dict[int, tuple[str, ...]] = {}
    captions: dict[int, str] = {}
    for rows, table in parts.rows(places, [*hashes, *numbers, "scores", "suffix", "notes", "caption"]):
        for name, column in hashes.items():
            column[rows] = fixed_bytes(table[name], HASH_BYTES)
        for name, column in numbers.items():
            column[rows] = table[name].to_numpy()
        scores[rows] = table["scores"].combine_chunks().flatten().to_numpy().reshape(-1, len(SCORES))
        texts = table.select(["suffix", "notes", "caption"]).to_pydict()
        suffix[rows] = [suffixes.setdefault(text, len(suffixes)) for text in texts["suffix"]]
        notes |= {int(row): tuple(each) for row, each in zip(rows, texts["notes"], strict=True) if each}
        captions |= {int(row): each for row, each in zip(rows, texts["caption"], strict=True) if each is not None}
    return MeasuredImages(
        sources, **hashes, **numbers, scores=scores, suffixes=list(suffixes), suffix=suffix, notes=notes,
        captions=captions, parts=parts, places=places,
    )  # fmt: skip
