"""A stand-in for a W&B server, which can stop responding. It accepts one run's metrics, files and artifacts.

The second half reads `.wandb` files: LevelDB log framing around `wandb.proto` records.
"""

import json
import re
import struct
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

from wandb.proto.wandb_internal_pb2 import Record

from tests.support.http_server import QuietHandler


class WandbServer(ThreadingHTTPServer):
    """Listens on a free port while its context lasts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.history: dict[int, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.num_artifacts = 0
        self.is_complete = False
        self.is_silent = threading.Event()
        self.has_history = threading.Event()

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that leaves in the middle of a response."""

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the data of a GraphQL response for uploading a run."""
        operation = re.findall(r"(?:query|mutation)\s+(\w+)", query)[0]
        match operation:
            case "UpsertBucket":
                project = {"id": "1", "name": variables["project"], "entity": {"id": "1", "name": "somebody"}}
                bucket = {"id": "1", "name": variables["name"], "displayName": "run", "config": "{}"}
                return {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": True}}
            case "RunResumeStatus":
                return {"model": None}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/files/{name}"} for name in variables["files"]]
                return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                sequence = {"id": "1", "latestArtifact": None}
                return {"createArtifact": {"artifact": {"id": "1", "state": "PENDING", "artifactSequence": sequence}}}
            case "CreateArtifactManifest" | "UpdateArtifactManifest":
                file = {"id": "1", "uploadUrl": f"{self.url}/manifest", "uploadHeaders": []}
                return {operation[0].lower() + operation[1:]: {"artifactManifest": {"id": "1", "file": file}}}
            case "CreateArtifactFiles":
                node = {"uploadHeaders": [], "artifact": {"id": "1"}}
                names = [file["name"] for file in variables["input"]["artifactFiles"]]
                nodes = [node | {"storagePath": name, "uploadUrl": f"{self.url}/artifact/{name}"} for name in names]
                return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
            case "CommitArtifact":
                self.num_artifacts += 1
                return {"commitArtifact": {"artifact": {"id": "1", "digest": "1"}}}
        return {}

    def take_stream(self, body: dict[str, Any]) -> None:
        """Keep the rows of wandb's file stream at their offsets."""
        for name, chunk in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                self.history.update(enumerate(map(json.loads, chunk["content"]), chunk["offset"]))
                self.has_history.set()
        self.is_complete |= bool(body.get("complete"))


class _Requests(QuietHandler):
    server: WandbServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.is_silent.is_set():
            threading.Event().wait()
        answer = {}
        if self.path.endswith("/graphql"):
            question = json.loads(body)
            answer = {"data": self.server.answer(question["query"], question.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.take_stream(json.loads(body))
        else:
            self.server.files[self.path] = body
        self.send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    do_GET = do_PUT = do_POST


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
