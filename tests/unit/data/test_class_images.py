import itertools
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from finetune.batches.buckets import BucketBatchSampler, assign_buckets
from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.config.parse.command_line import parse
from finetune.config.sections import DataConfig
from finetune.data.class_images import (
    CLASS_PREFIX,
    balance,
    balance_text,
    captioned,
    trained,
    trained_captions,
    with_class_images,
)
from finetune.data.manifest import Manifest, Record
from recipes.dreambooth import class_images_in
from tests.support.images import picture, write


@dataclass(frozen=True)
class Named:
    """A source that returns its own name and the file's."""

    name: str

    def read(self, file_name: str) -> bytes:
        return f"{self.name}:{file_name}".encode()


def manifest(name: str, count: int, repeats: int = 1) -> Manifest:
    sizes = itertools.cycle([(64, 64), (96, 48), (48, 96)] if name == "instance" else [(64, 64)])
    records = [
        Record(f"{n:04d}.png", ("own",), *next(sizes), f"{name}{n}", repeats=repeats if n == 0 else 1)
        for n in range(count)
    ]
    return Manifest(tuple(records), Named(name), name, (f"warning of {name}",))


@pytest.mark.parametrize("num_instance", [1, 2, 3, 5, 7, 13, 30, 200, 997])
@pytest.mark.parametrize("num_class", [1, 4, 5, 50, 200, 1000])
def test_repeats_even_out_the_counts_to_one_percent(num_instance: int, num_class: int) -> None:
    times_instance, times_class = balance(num_instance, num_class)
    assert times_instance * num_instance == pytest.approx(times_class * num_class, rel=0.0101)
    assert balance(num_class, num_instance) == (times_class, times_instance)
    assert times_instance * num_instance <= 105 * max(num_instance, num_class)  # a pass stays short


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_samples_are_half_of_the_instance_and_half_of_the_class(batch_size: int) -> None:
    both = with_class_images(
        manifest("instance", 7, repeats=3), manifest("class", 40), prompt="a dog", weight=0.5, held_out=()
    )
    buckets = assign_buckets(both.records, DataConfig("x", resolution=64, bucket_step=16))
    assert len(buckets) == 3
    repeats = [record.repeats for record in both.records]
    sampler = BucketBatchSampler(buckets, repeats, batch_size, seed=1)
    num_batches = 20 * sum(repeats) // batch_size
    seen = Counter(index for batch in itertools.islice(sampler, num_batches) for index, _ in batch)
    is_class = [record.file_name.startswith(CLASS_PREFIX) for record in both.records]
    shares = [sum(seen[n] for n in range(len(is_class)) if is_class[n] == kind) for kind in (False, True)]
    assert shares[0] / sum(shares) == pytest.approx(0.5, abs=0.01)
    assert seen[is_class.index(False)] == pytest.approx(3 * seen[is_class.index(False) + 1], rel=0.1)


def test_class_images_carry_their_prompt_weight_and_place() -> None:
    both = with_class_images(
        captioned(manifest("instance", 3), "a sks dog"), manifest("class", 3), prompt="a dog", weight=0.5, held_out=()
    )
    assert [record.file_name for record in both.records] == sorted(record.file_name for record in both.records)
    for record in both.records:
        is_class = record.file_name.startswith(CLASS_PREFIX)
        assert (record.captions, record.weight) == ((("a dog",), 0.5) if is_class else (("a sks dog",), 1.0))
        assert record.split is None
    assert both.source.read("/class/0001.png") == b"class:0001.png"
    assert both.source.read("0001.png") == b"instance:0001.png"
    assert both.warnings == ("warning of instance", "warning of class")
    assert "50.0%" in balance_text(both.records)


def test_held_out_images_are_of_the_instance_and_do_not_count() -> None:
    both = with_class_images(manifest("instance", 5), manifest("class", 8), prompt="a dog", weight=1, held_out={0})
    splits = {record.file_name: record.split for record in both.records}
    assert splits["0000.png"] == "validation"
    assert all(split == "train" for name, split in splits.items() if name != "0000.png")
    samples = Counter(r.file_name.startswith(CLASS_PREFIX) for r in both.records for _ in range(r.repeats) if r.split)
    assert samples == {False: 10, True: 8}  # five instance records of two repeats, one of them held out


def test_what_is_trained_is_counted_by_repeats_apart_for_class_images_and_without_what_is_held_out() -> None:
    both = with_class_images(manifest("instance", 3), manifest("class", 5), prompt="a dog", weight=1, held_out=())
    counted = trained(both.records, held_out=())
    assert (counted.instance, counted.of_class, counted.num_samples) == ({5: 3}, {3: 5}, 30)
    assert trained_captions(both.records, held_out=()) == ["own"] * 3
    assert trained(manifest("instance", 4, repeats=10).records, held_out={3}).instance == {10: 1, 1: 2}


def test_masks_of_the_subject_stay() -> None:
    masks = Named("masks")
    instance = replace(manifest("instance", 2), masks=masks)
    both = with_class_images(instance, manifest("class", 2), prompt="a dog", weight=1.0, held_out=set())
    assert both.masks is masks and both.location == "instance"


def test_class_images_may_keep_their_own_captions() -> None:
    both = with_class_images(manifest("instance", 2), manifest("class", 2), prompt=None, weight=1.0, held_out=())
    assert {record.captions for record in both.records} == {("own",)}


def test_the_options_of_the_class_decide_and_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.png": picture(), "a.txt": "a brown dog", "b.png": picture("blue"), "b.txt": "a puppy"})
    base = ["--data.folder", "own", "--output.folder", "out", "--model.source", "model"]
    base += ["--instance.prompt", "a sks dog", "--prior.folder", folder]
    own = parse(DreamBoothTrainConfig, [*base, "--prior.captions", "true"], program="test")
    assert [record.captions for record in class_images_in(folder, own).records] == [("a brown dog",), ("a puppy",)]
    prompted = parse(DreamBoothTrainConfig, [*base, "--prior.prompt", "a dog"], program="test")
    (warning,) = class_images_in(folder, prompted).warnings
    assert "because prior.captions is false (2)" in warning and "data.captions" not in warning
