"""A cache of captions in JSON Lines that survives kills."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from datasets_prep.captioners.base import Kind, Result
from finetune.data.listing import Findings
from finetune.json_text import parse_json


class JsonLinesCache:
    """Results by the image's sha256, the captioner's identity and the kind. They are in an append-only file, with about
    150 bytes per line in memory. Lines that cannot be read, such as the last one of a killed process, are counted and
    skipped. One process at a time."""

    def __init__(self, path: Path, findings: Findings) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  closed by close()
        self._places: dict[bytes, tuple[int, int]] = {}
        self._end = 0
        self._index(findings)

    def _index(self, findings: Findings) -> None:
        last = b"\n"
        kind = f"lines of {self.path.name} that cannot be read, whose captions are written again"
        with self.path.open("rb") as file:
            for number, last in enumerate(file, start=1):
                try:
                    row = parse_json(last)
                    _result(row)
                    key = _key(bytes.fromhex(row["picture"]), row["captioner"], row["kind"])
                    self._places[key] = (self._end, len(last))
                except (ValueError, KeyError, TypeError, AttributeError):
                    findings.warn(kind, f"line {number}")
                self._end += len(last)
        if not last.endswith(b"\n"):  # what is written next begins on a line of its own
            self._append(b"\n")

    def get(self, sha256: bytes, identity: str, kind: Kind) -> Result | None:
        place = self._places.get(_key(sha256, identity, kind))
        if place is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place[0])
            return _result(parse_json(file.read(place[1])))

    def put(self, kind: Kind, results: Sequence[tuple[bytes, str, Result]]) -> None:
        """Store a batch of (image, identity, result), all or none. They outlive the process once this returns, so a
        continued run makes the same batches."""
        data = b""
        for sha256, identity, result in results:
            line = _line(sha256, identity, kind, result)
            self._places[_key(sha256, identity, kind)] = (self._end + len(data), len(line))
            data += line
        self._append(data)

    def _append(self, data: bytes) -> None:
        written = 0
        while written < len(data):
            written += self._file.write(data[written:])
        self._end += len(data)

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


def _key(sha256: bytes, identity: str, kind: str) -> bytes:
    return hashlib.blake2b(sha256 + f"\0{identity}\0{kind}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _line(sha256: bytes, identity: str, kind: Kind, result: Result) -> bytes:
    row: dict[str, object] = {"picture": sha256.hex(), "captioner": identity, "kind": kind}
    row |= {"text": result.text, "num_tokens": result.num_tokens, "finish": result.finish}
    return json.dumps(row).encode("ascii") + b"\n"  # ASCII escapes also hold what UTF-8 cannot


def _result(row: dict) -> Result:
    if not (
        isinstance(row["text"], str) and isinstance(row["num_tokens"], int) and row["finish"] in ("stop", "length")
    ):
        raise ValueError("not a caption")
    return Result(row["text"], row["num_tokens"], row["finish"])
