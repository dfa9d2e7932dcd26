"""An S3 server on this machine, and shards of images in it."""

import contextlib
import hashlib
import io
import logging
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import pyarrow
from PIL import Image
from pyarrow import parquet

BUCKET = "images"


class Bucket:
    """A bucket of the server, and the environment that leads to it."""

    def __init__(self, endpoint: str) -> None:
        import boto3

        self.environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.client.create_bucket(Bucket=BUCKET)

    def put(self, prefix: str, files: Mapping[str, bytes]) -> str:
        """Upload files below a prefix. Return its URL."""
        for name, data in files.items():
            self.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=data)
        return f"s3://{BUCKET}/{prefix}"


class InMemory:
    """Files of fsspec's file system in memory, which needs no server."""

    def __init__(self) -> None:
        self._system = fsspec.filesystem("memory")

    def put(self, prefix: str, files: Mapping[str, bytes]) -> str:
        """Write files below a prefix. Return its URL."""
        for name, data in files.items():
            self._system.pipe_file(f"/{BUCKET}/{prefix}/{name}", data)
        return f"memory://{BUCKET}/{prefix}"

    def clear(self) -> None:
        self._system.rm("/", recursive=True)


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """Serve a bucket, to which this process's environment leads within the context."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # which prints a line per request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        found = Bucket(f"http://{host}:{port}")
        with mock.patch.dict(os.environ, found.environment):
            yield found
    finally:
        server.stop()


def tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def table(
    images: Mapping[str, bytes],
    captions: Sequence[str],
    *,
    prepared: bool = False,
    group: int = 4,
    column: str = "text",
    **options: object,
) -> bytes:
    """Write images as a Parquet table, of `datasets` or of preparation. A row group has `group` of them."""
    rows: list[dict[str, object]] = []
    for (name, data), caption in zip(images.items(), captions, strict=True):
        row: dict[str, object] = {"image": {"bytes": data, "path": name}, column: caption}
        if prepared:
            width, height = Image.open(io.BytesIO(data)).size
            sha256 = hashlib.sha256(data).hexdigest()
            row |= {"width": width, "height": height, "sha256": sha256, "source": name}
        rows.append(row)
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, row_group_size=group, **options)
    return buffer.getvalue()


def shards(folder: Path, num: int) -> dict[str, bytes]:
    """Pack the images and text files of a folder as archives."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix == ".png")
    per_shard = -(-len(names) // num)
    found: dict[str, bytes] = {}
    for number in range(num):
        files: dict[str, bytes] = {}
        for name in names[number * per_shard : (number + 1) * per_shard]:
            for path in (folder / name, (folder / name).with_suffix(".txt")):
                files[path.name] = path.read_bytes()
        found[f"{number:05d}.tar"] = tar(files)
    return found
