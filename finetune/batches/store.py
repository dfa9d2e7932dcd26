"""Encoded images and captions on disk, in shards.

An entry's key hashes the content it was made from, the weights and options it was made with, and `VERSION`; so a
changed image, crop, model or encoder is a new entry and never a stale one. Shards are written aside and renamed, and
are never changed, so several processes and several runs may share a folder and any of them may be killed. Every tensor
is checked against its digest when read.
"""

import contextlib
import errno
import functools
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, cast

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from finetune.files import errno_of, give_usual_modes, is_of_another_user, may_read, not_permitted
from finetune.models.stored import is_narrow

Entry = dict[str, Tensor]


class Shard(Protocol):
    """An open file of safetensors, whose own class has no types."""

    def keys(self) -> list[str]: ...
    def get_tensor(self, name: str) -> Tensor: ...
    def metadata(self) -> dict[str, str] | None: ...


VERSION = 1
"""Increased whenever decoding, resizing or encoding changes its numbers."""

FLUSH_SECONDS = 20.0
"""Work that a kill may cost while a cache is built."""


def cache_key(*parts: object) -> str:
    """Hash `parts` to the hex key of an entry."""
    return hashlib.sha256("\0".join(map(str, (VERSION, *parts))).encode()).hexdigest()[:40]


def fingerprint(module: nn.Module) -> str:
    """Hash the names, types, shapes and values of all weights. Weights of 16 bits count as if in float32."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        value = value.float() if is_narrow(value) else value
        total.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        total.update(raw_bytes(value))
    return total.hexdigest()


class ShardStore:
    """The entries of one kind (latents, text) in a folder of shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self.torn: set[Path] = set()
        self._paths: dict[str, Path] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the headers of new shards. A torn shard is passed over and rebuilt."""
        known = set(self._paths.values())
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in known:
                continue
            try:
                with cast("AbstractContextManager[Shard]", safe_open(path, framework="pt")) as shard:
                    self._paths |= {name.partition("/")[0]: path for name in shard.keys()}  # noqa: SIM118 (not a dict)
            except (SafetensorError, OSError) as error:
                is_allowed = may_read(path)
                reason = str(error) if is_allowed else "permission denied; its owner can change that"
                text = f"cache: {path.name} is not readable ({reason}); its entries are made again."
                self.warnings += [text] if text not in self.warnings else []
                self.torn |= {path} if isinstance(error, SafetensorError) and is_allowed else set()

    def remove_torn(self) -> None:
        """Remove torn shards. Nobody can be writing them, since shards are renamed when whole."""
        for path in self.torn:
            if not is_of_another_user(path):
                path.unlink(missing_ok=True)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """List the keys without an entry, in the given order, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self._paths]

    def read(self, key: str) -> Entry:
        """Read one entry. Raise ValueError with the file where its bytes are not what was written."""
        path = self._paths[key]
        try:
            shard, digests = open_shard(path)
            entry = {name: shard.get_tensor(f"{key}/{name}") for name in digests.get(key, {})}
        except (SafetensorError, OSError) as error:
            if not may_read(path):
                raise not_permitted(path) from error
            if isinstance(error, SafetensorError):
                raise damaged(path) from error
            raise
        if not entry or any(tensor_digest(value) != digests[key][name] for name, value in entry.items()):
            raise damaged(path)
        return entry

    def write(self, entries: dict[str, Entry]) -> Path:
        """Write one shard, complete or not at all."""
        tensors = {
            f"{key}/{name}": value.contiguous() for key, entry in entries.items() for name, value in entry.items()
        }
        path = self.folder / f"{cache_key(*sorted(entries))}.safetensors"
        if is_of_another_user(path):  # and cannot be read, or these entries would not be made again
            path = path.with_stem(f"{path.stem}-{secrets.token_hex(4)}")
        temporary = self.folder / f".tmp-{path.name}-{secrets.token_hex(8)}"  # process ids repeat in containers
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            digests = {name: tensor_digest(value) for name, value in tensors.items()}
            safetensors.torch.save_file(tensors, temporary, metadata=digests)  # pyright: ignore[reportUnknownMemberType]
            give_usual_modes(temporary)
            temporary.replace(path)
        except (SafetensorError, OSError) as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            is_permission = errno_of(error) in (errno.EACCES, errno.EPERM, errno.EROFS)
            advice = "Put the cache" if is_permission else "Make room, or put the cache"
            raise OSError(
                f"cache: {path} could not be written: {error}. {advice} elsewhere with --cache.folder."
            ) from error
        return path


def damaged(path: Path) -> ValueError:
    """Make the error for a shard with other bytes than were written."""
    return ValueError(f"cache: {path} is damaged. Delete that file and run again; it is made again.")


@functools.lru_cache(maxsize=256)
def open_shard(path: Path) -> tuple[Shard, dict[str, dict[str, str]]]:
    """Open a shard with its digests by key and name. The newest 256 stay open in each process."""
    shard = cast("Shard", safe_open(path, framework="pt"))
    written = shard.metadata() or {}
    digests: dict[str, dict[str, str]] = {}
    for full_name in sorted({*shard.keys(), *written}):  # one without the other is damage, which reading finds
        key, _, name = full_name.partition("/")
        digests.setdefault(key, {})[name] = written.get(full_name, "")
    return shard, digests


def tensor_digest(value: Tensor) -> str:
    """Hash a tensor's type, shape and bytes."""
    digest = hashlib.blake2b(f"{value.dtype}{tuple(value.shape)}".encode(), digest_size=8)
    digest.update(raw_bytes(value))
    return digest.hexdigest()


def raw_bytes(value: Tensor) -> memoryview:
    """View the bytes of a tensor of any type. Dense ones on the CPU are not copied."""
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def fill(
    store: ShardStore,
    keys: Sequence[str],
    encode: Callable[[Sequence[str]], Iterable[tuple[str, Entry]]],
    *,
    shard_size: int,
    rank: int,
    num_processes: int,
    progress: Callable[[int], None],
) -> None:
    """Encode this process's share of `keys`. What has been written survives a kill. `keys` are the missing ones, the
    same list on every process. encode yields (key, entry) for the keys it is given. A shard is written when it is full,
    and at the latest when `FLUSH_SECONDS` have passed."""
    entries: dict[str, Entry] = {}
    written = time.monotonic()
    share = len(keys) * rank // num_processes, len(keys) * (rank + 1) // num_processes
    for key, entry in encode(keys[slice(*share)]):
        entries[key] = entry
        progress(1)
        if len(entries) == shard_size or time.monotonic() - written > FLUSH_SECONDS:
            store.write(entries)
            entries, written = {}, time.monotonic()
    if entries:
        store.write(entries)
