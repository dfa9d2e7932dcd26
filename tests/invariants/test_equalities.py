import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from finetune.batches.batch import Batch, collate
from finetune.batches.buckets import BucketBatchSampler, assign_buckets
from finetune.batches.dataset import TrainingDataset, TrainingImages
from finetune.batches.encoder import Encoder
from finetune.batches.fill_caches import build_caches
from finetune.config.sections import CacheConfig, DataConfig
from finetune.data.manifest import read_manifest
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components
from tests.support.runs import TINY, Options, assert_close_metrics, assert_same_end, completed, distance, final_state
from tests.tiny.components import components_of
from tests.tiny.sd import build_pipeline, save_pictures

STEPS = 6
AUGMENTED: Options = {
    "data.crop": "random",
    "data.num_crops": 2,
    "data.flip": True,
    "data.caption_dropout": 0.3,
    "data.shuffle_tags": True,
    "data.keep_tags": 1,
}


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of three aspect ratios with two captions each. Every third has a caption of more than 77 tokens."""
    folder = save_pictures(tmp_path_factory.mktemp("tagged"), count=12, size=70, aspects=(1.0, 1.7, 0.6))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        tags = ", ".join([row["text"]] * (20 if number % 3 == 0 else 1) + ["ink", "grey", "a cross"])
        row["captions_alt"] = [tags]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


@pytest.fixture(scope="module")
def options(tiny_model: Path, tagged: Path, shared_cache: Path) -> Options:
    """Options of the run that others are compared with, without output folder."""
    common = {"model.source": tiny_model, "data.folder": tagged, "cache.folder": shared_cache}
    return TINY | AUGMENTED | common | {"train.steps": STEPS, "train.batch_size": 4, "checkpoint.every": 100}


def finished(options: Options, folder: Path) -> None:
    completed("lora", options | {"output.folder": folder}, folder.with_suffix(".log"))


@pytest.fixture(scope="module")
def reference(options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "out"
    finished(options, folder)
    return folder


def test_caches_and_workers_change_no_bit(options: Options, reference: Path, tmp_path: Path) -> None:
    """With crops, flips, dropped and shuffled captions, and mixed prompt lengths. So is a second run of the seed."""
    finished(options | {"cache.latents": False, "cache.text": False, "data.num_workers": 1}, tmp_path / "out")
    assert_same_end(reference, tmp_path / "out")


def test_two_passes_of_two_images_equal_one_of_four(options: Options, reference: Path, tmp_path: Path) -> None:
    finished(options | {"train.batch_size": 2, "train.accumulation": 2}, tmp_path / "out")
    assert distance(final_state(tmp_path / "out"), final_state(reference)) < 1e-4
    assert_close_metrics(tmp_path / "out", reference, "step", "loss", "lr", "grad_norm", "images_seen", rel=1e-4)


def test_another_seed_gives_other_weights(options: Options, reference: Path, tmp_path: Path) -> None:
    finished(options | {"seed": 1}, tmp_path / "out")
    assert distance(final_state(tmp_path / "out"), final_state(reference)) > 1e-2


# In one process.


DATA = DataConfig("x", resolution=64, bucket_step=16, crop="random", num_crops=3, flip=True)
DATA = replace(DATA, caption_dropout=0.2, shuffle_tags=True, keep_tags=1)


def batches_of(folder: Path, components: Components, cache: CacheConfig, cached: Path) -> list[tuple[Batch, Tensor]]:
    manifest = read_manifest(str(folder))
    accelerator = Accelerator(cpu=True)
    encoder = Encoder(StableDiffusion(), components, accelerator.device, text_encoder_is_trained=False)
    buckets = assign_buckets(manifest.records, DATA)
    images = TrainingImages(manifest.records, buckets, manifest.source, DATA)
    encoded = build_caches(encoder, accelerator, images, cache, cached, torch.float32)
    dataset = TrainingDataset(images, encoded, seed=0)
    sampler = BucketBatchSampler(buckets, [1] * len(manifest.records), 4, seed=0)
    batches = [collate([dataset[place] for place in places]) for places in itertools.islice(sampler, 12)]
    return [(batch, encoder.latents(batch)) for batch in batches]


def test_every_crop_flip_and_caption_is_the_same_from_the_cache_and_made_again(tagged: Path, tmp_path: Path) -> None:
    components = components_of(build_pipeline(size="micro"))
    cached = batches_of(tagged, components, CacheConfig(), tmp_path)
    anew = batches_of(tagged, components, CacheConfig(latents=False, text=False), tmp_path)
    for (ours, latents), (theirs, expected) in zip(cached, anew, strict=True):
        assert ours.pixels is None and theirs.latents is None
        assert (ours.keys, ours.captions, ours.positions) == (theirs.keys, theirs.captions, theirs.positions)
        assert torch.equal(latents, expected)
    captions = [caption for batch, _ in cached for caption in batch.captions]
    assert "" in captions and len(set(captions)) > 12
    assert len({key for batch, _ in cached for key in batch.keys}) > 24
