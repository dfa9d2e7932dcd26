import hashlib
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from finetune.batches.store import Entry, ShardStore, cache_key, fill, fingerprint, tensor_digest


def test_a_key_does_not_confuse_its_parts() -> None:
    assert len({cache_key("ab", "c"), cache_key("a", "bc"), cache_key("abc"), cache_key("ab", "c", "")}) == 4


class Weights(nn.Module):
    def __init__(self, first: Tensor, second: Tensor, *, swapped: bool = False) -> None:
        super().__init__()
        for name, value in (("b", second), ("a", first)) if swapped else (("a", first), ("b", second)):
            self.register_parameter(name, nn.Parameter(value))


def test_the_fingerprint_of_weights_sees_names_types_shapes_and_values_but_no_order() -> None:
    a, b = torch.arange(6.0), torch.ones(6)
    firsts = (a, a.view(2, 3), a.double(), torch.nextafter(a, a + 1))
    prints = [fingerprint(module) for module in (*(Weights(first, b) for first in firsts), Weights(b, a))]
    assert len(set(prints)) == len(prints)
    assert fingerprint(Weights(a, b, swapped=True)) == prints[0]
    assert fingerprint(Weights(a.bfloat16(), b.half())) == prints[0]  # as it is read narrow or wide
    assert fingerprint(Weights(a.view(2, 3).t().contiguous().t().reshape(6), b)) == prints[0]


def test_the_digest_of_a_tensor_sees_type_and_shape() -> None:
    value = torch.zeros(4)
    assert len({tensor_digest(v) for v in (value, value.int(), value.view(2, 2), value + 1)}) == 4


def value_of(key: str) -> Entry:
    """An entry of several tensors and types that follows from its key."""
    generator = torch.Generator().manual_seed(int(hashlib.sha256(key.encode()).hexdigest()[:12], 16))
    latents = torch.randn(4, 3, 2, generator=generator)
    return {"latents": latents, "half": latents[0].bfloat16(), "tokens": torch.arange(5), "flag": torch.tensor(True)}


def same(first: Entry, second: Entry) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def keys_of(num: int) -> list[str]:
    return [cache_key("test", number) for number in range(num)]


def test_entries_of_several_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    keys = keys_of(5)
    ShardStore(tmp_path / "deep" / "folder").write({key: value_of(key) for key in keys})
    store = ShardStore(tmp_path / "deep" / "folder")
    assert all(same(store.read(key), value_of(key)) for key in keys)
    assert store.missing([*keys, "x", "y", "x"]) == ["x", "y"]


def test_a_store_sees_what_others_wrote_after_it_was_opened(tmp_path: Path) -> None:
    store, (key,) = ShardStore(tmp_path), keys_of(1)
    ShardStore(tmp_path).write({key: value_of(key)})
    assert store.missing([key]) == [key]
    store.refresh()
    assert same(store.read(key), value_of(key))


def encode(keys: Sequence[str]) -> Iterator[tuple[str, Entry]]:
    for key in keys:
        yield key, value_of(key)


def fill_all(
    folder: Path,
    keys: Sequence[str],
    *,
    encode: Callable[[Sequence[str]], Iterator[tuple[str, Entry]]] = encode,
    shard_size: int = 4,
) -> ShardStore:
    store = ShardStore(folder)
    fill(store, store.missing(keys), encode, shard_size=shard_size, rank=0, num_processes=1, progress=lambda done: None)
    store.refresh()
    return store


@pytest.mark.parametrize("num_processes", [1, 2, 3, 20])
def test_processes_share_the_work_without_gap_or_overlap(num_processes: int, tmp_path: Path) -> None:
    keys, made = keys_of(13), []
    for rank in range(num_processes):
        own = {"rank": rank, "num_processes": num_processes, "progress": made.append}
        fill(ShardStore(tmp_path), keys, encode, shard_size=4, **own)
    assert sum(made) == len(keys)
    store = ShardStore(tmp_path)
    assert store.missing(keys) == []
    assert all(same(store.read(key), value_of(key)) for key in keys)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_torn_shard_is_passed_over_with_a_warning_and_its_entries_are_made_again(tmp_path: Path, length: int) -> None:
    keys = keys_of(12)
    fill_all(tmp_path, keys)
    torn = sorted(tmp_path.glob("*.safetensors"))[0]
    torn.write_bytes(torn.read_bytes()[:length])
    store = ShardStore(tmp_path)
    assert len(store.missing(keys)) == 4
    assert len(store.warnings) == 1 and torn.name in store.warnings[0]
    store = fill_all(tmp_path, keys)
    assert store.missing(keys) == [] and len(store.warnings) == 1  # told once, although the folder was read twice
    assert all(same(store.read(key), value_of(key)) for key in keys)
    assert len(list(tmp_path.iterdir())) == 3


def attempted(store: ShardStore, key: str) -> tuple[Entry | None, str]:
    try:
        return store.read(key), ""
    except ValueError as error:
        return None, str(error)


def test_no_flipped_bit_gives_a_wrong_value_or_anything_but_a_sentence(tmp_path: Path) -> None:
    (key,), refused = keys_of(1), 0
    whole = ShardStore(tmp_path).write({key: value_of(key)}).read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path = tmp_path / str(place) / "shard.safetensors"
        path.parent.mkdir()
        path.write_bytes(data)
        store = ShardStore(path.parent)
        if not store.missing([key]):
            found, error = attempted(store, key)
            assert same(found, value_of(key)) if found else str(path) in error, place
            refused += found is None
    assert refused >= sum(value.nbytes for value in value_of(key).values())


def test_a_full_disk_is_reported_with_the_place_and_the_way_out_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """A file size limit reaches the same code as a full disk."""
    entry = {"latents": torch.zeros(200_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        with pytest.raises(OSError, match=r"--cache\.folder") as caught:
            ShardStore(tmp_path).write({"key": entry})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    ShardStore(tmp_path).write({"key": entry})


def test_a_folder_that_cannot_be_made_is_reported_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # permissions would not stop root
    with pytest.raises(OSError, match=r"--cache\.folder"):
        ShardStore(tmp_path / "file" / "cache").write({"key": value_of("key")})
