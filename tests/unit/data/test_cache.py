"""Caches are right by construction: keys see every input, damage is found, and any process may be killed at any time."""

import hashlib
import multiprocessing
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finetune.config import CacheConfig, DataConfig
from finetune.data.buckets import Bucket
from finetune.data.cache import Entry, ShardStore, cache_key, fill, fingerprint, tensor_digest
from finetune.data.dataset import Encoded, View, latent_key, record_pixels, text_key, views
from finetune.data.encode import Encoder, build_caches, text_fingerprint
from finetune.data.folder import FolderSource
from finetune.data.manifest import Record, read_manifest
from finetune.models.base import Components
from finetune.models.sd import StableDiffusion
from tests.tiny import build_pipeline, save_pictures

CONTEXT = multiprocessing.get_context("fork")  # a child needs nothing but what is imported here
RECORD = Record("a.png", ("a",), 100, 80, "ab" * 32)
VIEW = View(64, 64, 0.25, 0.5, False)


# Keys.


def test_the_key_of_latents_changes_with_picture_size_crop_flip_and_autoencoder() -> None:
    keys = [
        latent_key(RECORD, VIEW, "vae"),
        latent_key(replace(RECORD, sha256="cd" * 32), VIEW, "vae"),
        *(
            latent_key(RECORD, replace(VIEW, **change), "vae")
            for change in ({"width": 72}, {"height": 72}, {"left": 0.26}, {"top": 0.6}, {"flip": True})
        ),
        latent_key(RECORD, VIEW, "other"),
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_of_latents_ignores_what_does_not_alter_them() -> None:
    renamed = replace(RECORD, file_name="b.png", captions=("x",), weight=0.5, repeats=3, split="train")
    assert latent_key(renamed, VIEW, "vae") == latent_key(RECORD, VIEW, "vae")


def test_the_key_of_a_text_changes_with_text_encoder_and_number_format() -> None:
    keys = [
        text_key("a", "encoder", torch.float32),
        text_key("b", "encoder", torch.float32),
        text_key("", "encoder", torch.float32),
        text_key("a", "other", torch.float32),
        text_key("a", "encoder", torch.bfloat16),
    ]
    assert len(set(keys)) == len(keys)


def test_a_key_does_not_confuse_its_parts() -> None:
    assert len({cache_key("ab", "c"), cache_key("a", "bc"), cache_key("abc"), cache_key("ab", "c", "")}) == 4


class Weights(nn.Module):
    """Two parameters, registered in either order."""

    def __init__(self, first: Tensor, second: Tensor, *, swapped: bool = False) -> None:
        super().__init__()
        for name, value in (("b", second), ("a", first)) if swapped else (("a", first), ("b", second)):
            self.register_parameter(name, nn.Parameter(value))


def test_the_fingerprint_of_weights_sees_names_types_shapes_and_values_but_no_order() -> None:
    a, b = torch.arange(6.0), torch.ones(6)
    prints = [
        fingerprint(module)
        for module in (
            Weights(a, b),
            Weights(b, a),
            Weights(a.view(2, 3), b),
            Weights(a.bfloat16(), b),
            Weights(torch.nextafter(a, a + 1), b),
        )
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(Weights(a, b, swapped=True)) == prints[0]
    assert fingerprint(Weights(a.view(2, 3).t().contiguous().t().reshape(6), b)) == prints[0]


def test_the_digest_of_a_tensor_sees_type_and_shape() -> None:
    value = torch.zeros(4)
    assert len({tensor_digest(v) for v in (value, value.int(), value.view(2, 2), value + 1)}) == 4


def test_each_view_of_a_picture_has_a_key_of_its_own_and_is_the_same_in_every_run() -> None:
    config = DataConfig("x", resolution=64, bucket_step=16, crop="random", flip=True, num_crops=3)
    bucket = Bucket(48, 80, (0,))
    chosen = views(RECORD, bucket, config)
    assert len({latent_key(RECORD, view, "vae") for view in chosen}) == 6
    assert chosen == views(RECORD, bucket, config)
    assert {view.top for view in chosen} == {0.5}  # this picture has room to the sides only
    exact = views(replace(RECORD, width=48, height=80), bucket, config)
    assert [(view.left, view.flip) for view in exact] == [(0.5, False), (0.5, True)]


# The store.


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
    fill(
        store,
        store.missing(keys),
        encode,
        shard_size=shard_size,
        rank=0,
        num_processes=1,
        progress=lambda done: None,
    )
    store.refresh()
    return store


@pytest.mark.parametrize("num_processes", [1, 2, 3, 20])
def test_processes_share_the_work_without_gap_or_overlap(num_processes: int, tmp_path: Path) -> None:
    keys, made = keys_of(13), []
    for rank in range(num_processes):
        fill(
            ShardStore(tmp_path),
            keys,
            encode,
            shard_size=4,
            rank=rank,
            num_processes=num_processes,
            progress=made.append,
        )
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
    assert store.missing(keys) == []
    assert len(store.warnings) == 1  # told once, although the folder was read twice
    assert all(same(store.read(key), value_of(key)) for key in keys)
    assert len(list(tmp_path.iterdir())) == 3


def test_no_flipped_bit_gives_a_wrong_value_or_anything_but_a_sentence(tmp_path: Path) -> None:
    """A bit of each byte in turn: the shard is unreadable, or an entry is missing, refused with the file's name, or right."""
    keys = keys_of(1)
    whole = ShardStore(tmp_path).write({key: value_of(key) for key in keys}).read_bytes()
    refused = 0
    for place in range(len(whole)):
        folder = tmp_path / str(place)
        folder.mkdir()
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path = folder / "shard.safetensors"
        path.write_bytes(data)
        store = ShardStore(folder)
        for key in keys:
            if not store.missing([key]):
                try:
                    assert same(store.read(key), value_of(key)), place
                except ValueError as error:
                    assert str(path) in str(error)
                    refused += 1
        path.unlink()
    num_bytes = sum(value.nbytes for key in keys for value in value_of(key).values())
    assert refused >= num_bytes


def test_a_full_disk_is_told_with_the_place_and_the_way_out_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The kernel refuses to let files grow, which reaches the same code as a full disk."""
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


def test_a_folder_that_cannot_be_made_is_told_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # permissions would not stop root
    with pytest.raises(OSError, match=r"--cache\.folder"):
        ShardStore(tmp_path / "file" / "cache").write({"key": value_of("key")})


# Several processes, real ones.


def encode_until(keys: Sequence[str], last: int) -> Iterator[tuple[str, Entry]]:
    """Kills its own process before entry number `last` comes out."""
    for number, entry in enumerate(encode(keys)):
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)
        yield entry


def fill_and_die(folder: Path, num: int, last: int) -> None:
    fill_all(folder, keys_of(num), encode=lambda keys: encode_until(keys, last))


def fill_with_shards_of(folder: Path, num: int, shard_size: int) -> None:
    fill_all(folder, keys_of(num), shard_size=shard_size)


def test_filling_again_after_kill_9_gives_what_an_undisturbed_fill_gives(tmp_path: Path) -> None:
    num = 30
    straight, broken = fill_all(tmp_path / "straight", keys_of(num)), tmp_path / "broken"
    draw, missing = random.Random(0), num
    while missing > 8:
        killed = CONTEXT.Process(target=fill_and_die, args=(broken, num, draw.randrange(5, 9)))
        killed.start()
        killed.join(60)
        assert killed.exitcode == -signal.SIGKILL
        left = len(ShardStore(broken).missing(keys_of(num)))
        assert left < missing  # each attempt keeps what it wrote
        missing = left
    refilled = fill_all(broken, keys_of(num))
    assert refilled.missing(keys_of(num)) == [] and refilled.warnings == []
    assert all(same(refilled.read(key), straight.read(key)) for key in keys_of(num))


def test_two_processes_may_fill_one_folder_at_once(tmp_path: Path) -> None:
    num = 200
    both = [CONTEXT.Process(target=fill_with_shards_of, args=(tmp_path, num, size)) for size in (3, 3, 7)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    store = ShardStore(tmp_path)
    assert store.missing(keys_of(num)) == [] and store.warnings == []
    assert all(same(store.read(key), value_of(key)) for key in keys_of(num))
    assert [path for path in tmp_path.iterdir() if path.suffix != ".safetensors"] == []


# Through the encoder.


@pytest.fixture(scope="module")
def components() -> Components:
    return new_components()


def new_components(*, sd2: bool = False, seed: int = 0) -> Components:
    pipeline = build_pipeline(size="micro", sd2=sd2, seed=seed)
    return Components(
        pipeline.unet, pipeline.vae, (pipeline.text_encoder,), (pipeline.tokenizer,), pipeline.scheduler
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pictures(tmp_path_factory.mktemp("pictures"), count=4, size=32)


def cached(components: Components, folder: Path, cache: Path, dtype: torch.dtype = torch.float32) -> Encoded:
    manifest = read_manifest(str(folder))
    accelerator = Accelerator(cpu=True)
    encoder = Encoder(StableDiffusion(), components, accelerator.device, text_encoder_is_trained=False)
    buckets = [Bucket(32, 32, tuple(range(len(manifest.records))))]
    data = DataConfig(str(folder), resolution=32, bucket_step=16)
    return build_caches(
        encoder, accelerator, manifest.records, buckets, [], manifest.source, data, CacheConfig(), cache, dtype
    )


def shards(cache: Path) -> set[Path]:
    return set(cache.rglob("*.safetensors"))


def test_a_second_run_makes_nothing_again(components: Components, folder: Path, tmp_path: Path) -> None:
    cached(components, folder, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    cached(components, folder, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in shards(tmp_path)}


def test_another_scaling_factor_makes_other_latents_although_the_weights_are_equal(
    components: Components, folder: Path, tmp_path: Path
) -> None:
    other = new_components()
    other.vae.register_to_config(scaling_factor=0.13025)
    assert fingerprint(other.vae) == fingerprint(components.vae)
    one, two = (cached(these, folder, tmp_path) for these in (components, other))
    assert one.latents and two.latents
    (record, *_), view = read_manifest(str(folder)).records, View(32, 32, 0.5, 0.5, False)
    values = [
        store.read(latent_key(record, view, these.vae_fingerprint))["latents"]
        for store, these in ((one.latents, one), (two.latents, two))
    ]
    assert values[0].std() / values[1].std() == pytest.approx(0.18215 / 0.13025, rel=0.5)
    assert not torch.equal(*values)


def test_what_decides_embeddings_is_weights_activation_and_tokenizer(components: Components) -> None:
    prints = [text_fingerprint(components)]
    prints.append(text_fingerprint(new_components(seed=1)))
    other = new_components()
    other.text_encoders[0].config.hidden_act = "relu"
    prints.append(text_fingerprint(other))
    other = new_components()
    other.tokenizers[0].pad_token = "!"
    prints.append(text_fingerprint(other))
    other = new_components()
    other.tokenizers[0].add_tokens(["reddish"])
    prints.append(text_fingerprint(other))
    assert len(set(prints)) == len(prints)
    same = new_components()
    same.tokenizers[0](["a", "b c"], padding=True, truncation=True)  # leaves a state behind
    same.text_encoders[0].config.name_or_path = "elsewhere"
    assert text_fingerprint(same) == prints[0]


def test_another_number_format_makes_other_embeddings(components: Components, folder: Path, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        encoded = cached(components, folder, tmp_path, dtype)
        assert encoded.text
        assert encoded.text.read(text_key("", encoded.encoder_fingerprint, dtype))["embeddings"].dtype == dtype


def test_a_picture_that_cannot_be_decoded_is_told_by_its_name(tmp_path: Path, components: Components) -> None:
    folder = save_pictures(tmp_path / "pictures", count=3, size=32)
    path = folder / "0001.png"
    path.write_bytes(path.read_bytes()[:-20])  # the header that the manifest reads is whole
    with pytest.raises(ValueError, match=r"0001\.png"):
        cached(components, folder, tmp_path / "cache")


def test_a_picture_that_changed_after_it_was_listed_never_enters_the_cache(tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "pictures", count=2, size=32)
    manifest = read_manifest(str(folder))
    view = View(32, 32, 0.5, 0.5, False)
    assert record_pixels(manifest.source, manifest.records[0], view).shape == (3, 32, 32)
    (folder / "0000.png").write_bytes((folder / "0001.png").read_bytes())
    with pytest.raises(ValueError, match=r"0000\.png was changed"):
        record_pixels(FolderSource(str(folder)), manifest.records[0], view)
