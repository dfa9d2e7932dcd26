"""A reader of `.wandb` files: LevelDB log framing around `wandb.proto` records."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from wandb.proto.wandb_internal_pb2 import Record

BLOCK_BYTES = 32768
FILE_HEADER = b":W&B"
FILE_HEADER_BYTES = 7
CHUNK_HEADER = struct.Struct("<IHB")  # CRC-32 of type and payload (zlib's, unmasked, unlike LevelDB's), length, type
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_records(file: Path) -> list[Record]:
    """Return every record. Raises ValueError where the framing is broken or the file ends inside a record."""
    data = file.read_bytes()
    if data[: len(FILE_HEADER)] != FILE_HEADER:
        raise ValueError(f"{file} does not start like a W&B file")
    return [Record.FromString(payload) for payload in _payloads(data)]


def _payloads(data: bytes) -> Iterator[bytes]:
    position, parts, is_open = FILE_HEADER_BYTES, [], False
    while position < len(data):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < CHUNK_HEADER.size:  # the rest of a block that holds no header is padding
            position += left
            continue
        checksum, length, kind = CHUNK_HEADER.unpack_from(data, position)
        position += CHUNK_HEADER.size
        chunk = data[position : position + length]
        position += length
        if len(chunk) < length or crc32(bytes([kind]) + chunk) != checksum:
            raise ValueError(f"broken chunk before byte {position}")
        if is_open != (kind in (MIDDLE, LAST)):
            raise ValueError(f"chunk of type {kind} out of order before byte {position}")
        parts.append(chunk)
        is_open = kind in (FIRST, MIDDLE)
        if not is_open:
            yield b"".join(parts)
            parts = []
    if is_open:
        raise ValueError("the file ends inside a record")


def history(records: list[Record]) -> list[dict[str, Any]]:
    """Return the logged rows without wandb's own fields. Names of these begin with `_`."""
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            rows.append({key: value for key, value in items.items() if not key.startswith("_")})
    return rows
