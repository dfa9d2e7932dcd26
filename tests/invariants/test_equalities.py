"""Caches, workers, processes and accumulation make no difference."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from finetune.batches.batch import Batch, collate
from finetune.batches.buckets import BucketBatchSampler, assign_buckets
from finetune.batches.dataset import TrainingDataset, TrainingImages
from finetune.batches.encoder import Encoder
from finetune.batches.fill_caches import build_caches
from finetune.config.recipes import LoRAConfig
from finetune.config.sections import CacheConfig, DataConfig
from finetune.data.manifest import Manifest, read_manifest
from finetune.methods.lora.method import LoRA
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components, Network
from tests.support.runs import TINY, Ended, Options, differing, final_state, losses, run
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


def finished(options: Options, folder: Path) -> Ended:
    ended = run("lora", options | {"output.folder": folder}, folder.with_suffix(".log"))
    assert ended.exit_code == 0, ended.output
    return ended


@pytest.fixture(scope="module")
def reference(options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "out"
    finished(options, folder)
    return folder


def test_caches_and_workers_change_no_bit(options: Options, reference: Path, tmp_path: Path) -> None:
    """Crops, flips, dropped and shuffled captions, and mixed prompt lengths.

    A second run of the same seed is equal, too.
    """
    finished(options | {"cache.latents": False, "cache.text": False, "data.num_workers": 1}, tmp_path / "out")
    assert differing(final_state(reference), final_state(tmp_path / "out")) == []
    assert losses(reference) == losses(tmp_path / "out")


def relative_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    names = [name for name in first if name.startswith("trained.")]
    difference = sum(float((first[name] - second[name]).square().sum()) for name in names)
    return (difference / sum(float(first[name].square().sum()) for name in names)) ** 0.5


def test_two_passes_of_two_pictures_equal_one_of_four(options: Options, reference: Path, tmp_path: Path) -> None:
    finished(options | {"train.batch_size": 2, "train.accumulation": 2}, tmp_path / "out")
    assert relative_difference(final_state(reference), final_state(tmp_path / "out")) < 1e-4
    for ours, theirs in zip(losses(tmp_path / "out"), losses(reference), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_another_seed_gives_other_weights(options: Options, reference: Path, tmp_path: Path) -> None:
    finished(options | {"seed": 1}, tmp_path / "out")
    assert relative_difference(final_state(reference), final_state(tmp_path / "out")) > 1e-2


def test_resuming_with_changed_pictures_is_refused_by_name_and_allowed_on_request(
    options: Options, reference: Path, tagged: Path, tmp_path: Path
) -> None:
    """A changed learning rate is only warned of."""
    folder, pictures = tmp_path / "out", tmp_path / "pictures"
    shutil.copytree(reference, folder)
    shutil.copytree(tagged, pictures)
    Image.open(pictures / "0001.png").rotate(180).save(pictures / "0001.png")
    rows = (pictures / "metadata.jsonl").read_text().splitlines()
    rows[2] = json.dumps(json.loads(rows[2]) | {"text": "a red cross"})
    (pictures / "metadata.jsonl").write_text("\n".join([*rows[:4], *rows[5:]]) + "\n")
    resumed = options | {"data.folder": pictures, "train.steps": STEPS + 2, "optim.lr": 0.02, "output.folder": folder}

    ended = run("lora", resumed, tmp_path / "log")
    assert ended.exit_code == 1
    for word in ("error: data.folder", "0001.png", "0002.png", "0004.png", "--data.allow_change true"):
        assert word in ended.output
    assert "0003.png" not in ended.output and "Traceback" not in ended.output
    assert final_state(folder).keys() == final_state(reference).keys()

    ended = run("lora", resumed | {"data.allow_change": True}, tmp_path / "log")
    assert ended.exit_code == 0, ended.output
    assert "optim.lr 0.01 -> 0.02" in ended.output and "0001.png" in ended.output
    rows_of_metrics = losses(folder)
    assert [row[0] for row in rows_of_metrics] == list(range(1, STEPS + 3))
    assert [row[2] for row in rows_of_metrics] == [0.01] * STEPS + [0.02] * 2


# In one process.


def components_of(*, sd2: bool) -> Components:
    pipeline = build_pipeline(size="micro", sd2=sd2)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False).eval()
    return Components(pipeline.unet, pipeline.vae, (pipeline.text_encoder,), (pipeline.tokenizer,), pipeline.scheduler)


@pytest.mark.parametrize("sd2", [False, True])
def test_a_fresh_adapter_leaves_the_prediction_unchanged_until_it_has_learned(sd2: bool) -> None:
    family, components = StableDiffusion(), components_of(sd2=sd2)
    network = Network(family, components.denoiser, components.text_encoders)
    noisy, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 800])
    tokens = family.tokenize(components.tokenizers, ["a red circle", "a cross on pink paper"])
    with torch.no_grad():
        before = network(noisy, t, tokens)
    LoRA(LoRAConfig(rank=4, dropout=0.5)).attach(network, seed=0)
    assert torch.is_grad_enabled()
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(noisy, t, tokens), before)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
        assert not torch.allclose(network(noisy, t, tokens), before, atol=1e-3)


def test_adapters_start_as_the_seed_says_and_leave_the_global_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    starts = []
    for seed in (0, 0, 1):
        components = components_of(sd2=False)
        network = Network(StableDiffusion(), components.denoiser)
        LoRA(LoRAConfig(rank=4)).attach(network, seed=seed)
        starts.append({name: p for name, p in network.named_parameters() if "lora_A" in name})
    assert torch.equal(torch.random.get_rng_state(), state)
    assert differing(starts[0], starts[1]) == []
    assert len(differing(starts[0], starts[2])) == len(starts[0])


DATA = DataConfig(
    "x",
    resolution=64,
    bucket_step=16,
    crop="random",
    num_crops=3,
    flip=True,
    caption_dropout=0.2,
    shuffle_tags=True,
    keep_tags=1,
)


def batches_of(
    manifest: Manifest, components: Components, cache: CacheConfig, folder: Path
) -> list[tuple[Batch, Tensor]]:
    """Return twelve batches and their latents, as a run would see them."""
    accelerator = Accelerator(cpu=True)
    encoder = Encoder(StableDiffusion(), components, accelerator.device, text_encoder_is_trained=False)
    buckets = assign_buckets(manifest.records, DATA)
    images = TrainingImages(manifest.records, buckets, manifest.source, DATA)
    encoded = build_caches(encoder, accelerator, images, cache, folder, torch.float32)
    dataset = TrainingDataset(images, encoded, seed=0)
    sampler = BucketBatchSampler(buckets, [1] * len(manifest.records), 4, seed=0)
    found = []
    for places, _ in zip(sampler, range(12), strict=False):
        batch = collate([dataset[place] for place in places])
        found.append((batch, encoder.latents(batch)))
    return found


def test_every_crop_flip_and_caption_is_the_same_from_the_cache_as_made_anew(tagged: Path, tmp_path: Path) -> None:
    manifest, components = read_manifest(str(tagged)), components_of(sd2=False)
    cached = batches_of(manifest, components, CacheConfig(), tmp_path)
    anew = batches_of(manifest, components, CacheConfig(latents=False, text=False), tmp_path)
    for (ours, latents), (theirs, expected) in zip(cached, anew, strict=True):
        assert ours.pixels is None and theirs.latents is None
        assert (ours.keys, ours.captions, ours.positions) == (theirs.keys, theirs.captions, theirs.positions)
        assert torch.equal(latents, expected)
    captions = [caption for batch, _ in cached for caption in batch.captions]
    assert "" in captions and len(set(captions)) > 12
    assert len({key for batch, _ in cached for key in batch.keys}) > 24
