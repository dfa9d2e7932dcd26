import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from finetune.batches.buckets import Bucket
from finetune.batches.cache_entries import Piece, encode_images
from finetune.batches.dataset import TrainingDataset, TrainingImages
from finetune.batches.encoder import Encoder
from finetune.batches.fill_caches import build_caches
from finetune.batches.pixels import ImageFiles
from finetune.batches.preview_prompts import kept_prompts
from finetune.batches.view import validation_view
from finetune.config.dreambooth import PriorConfig
from finetune.config.loss import LossConfig
from finetune.config.outputs import PreviewConfig
from finetune.config.sections import CacheConfig, DataConfig
from finetune.config.train import TrainConfig
from finetune.data.manifest import read_manifest
from finetune.launch import run_recipe
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource, Network
from finetune.models.loading.components import loaded
from finetune.models.parts import PARTS, load_sequentially
from finetune.models.stored import cast_and_move
from finetune.optim.ema import EMA
from finetune.out_of_memory import explaining_out_of_memory
from finetune.planning.recipe import Recipe, Stage
from finetune.processes.signals import SIGNALS
from finetune.run.checkpoint import read
from finetune.run.class_images import draw_groups
from finetune.run.preview import make_previews, planned_previews
from finetune.run.validate import HeldOut, validation_loss
from finetune.tasks.denoising import Denoising
from tests.tiny.sd import save_pictures

FAMILY = StableDiffusion()
HUGE = 2**50  # no machine has the addresses that such allocations ask for, so nothing of them is ever touched
SIDE = 2**25


def allocate(*_: object) -> torch.Tensor:
    return torch.empty(HUGE)


ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
)


def fail(cause: Callable[[], object] | Exception) -> None:
    if isinstance(cause, Exception):
        raise cause
    cause()


@pytest.mark.parametrize("cause", [allocate, lambda: bytearray(HUGE), *ERRORS])
def test_whatever_raises_it_becomes_one_sentence(cause: Callable[[], object] | Exception) -> None:
    with (
        pytest.raises(ValueError, match=r"^out of memory in a test\. Lower it\.$"),
        explaining_out_of_memory("in a test", "Lower it."),
    ):
        fail(cause)


def test_other_errors_stay_what_they_are() -> None:
    shapes = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    for error in (shapes, OSError(errno.ENOSPC, "full"), KeyError(1)):
        with pytest.raises(type(error)) as raised, explaining_out_of_memory("in a test", ""):
            raise error
        assert raised.value is error


class Wide(nn.Module):
    """A weight that one number stands for until it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16).expand(HUGE))


def placed() -> None:
    cast_and_move(Wide(), trained=torch.float32, frozen=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: EMA.from_network(Wide(), 0.9), f"average of {HUGE:,} trained weights.*train.ema_device cpu"),
        (lambda: EMA.from_network(Wide(), 0.9, "cpu"), "average of .* in host memory.*train.ema_decay none"),
        (placed, "network.*model.quantization"),
    ],
)
def test_weights_and_their_average_are_named(act: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=f"^out of memory .*{words}"):
        act()


def test_images_that_are_drawn_are_named_with_their_size(tiny_model: Path, tmp_path: Path) -> None:
    parts, accelerator = load_sequentially(FAMILY, ModelSource(str(tiny_model)), keep=PARTS), Accelerator(cpu=True)
    config = PreviewConfig(("a red circle",), num_inference_steps=1)
    planned = planned_previews(tmp_path, config, 0)
    kept = kept_prompts(FAMILY, parts.components, config, accelerator, text_encoder_is_trained=False)
    with pytest.raises(ValueError, match=f"out of memory while a preview of {SIDE}x{SIDE}.* preview.size"):
        make_previews(FAMILY, parts.components, planned, kept, config, accelerator, size=SIDE, stop=lambda: False)
    prior = PriorConfig(prompt="a circle", num_inference_steps=1, guidance_scale=2.0, batch_size=3)
    with pytest.raises(ValueError, match=f"out of memory while 3 class images of {SIDE}x{SIDE}.* prior.batch_size"):
        draw_groups(parts, [0], prior, tmp_path, SIDE, accelerator, lambda done: None, offload=False)


class Widening(nn.Conv2d):
    """A first layer whose output has more channels than anything can hold."""

    def __init__(self, like: nn.Conv2d) -> None:
        super().__init__(like.in_channels, 1, 3, padding=1)
        self.weight = nn.Parameter(self.weight.detach().expand(2**40, -1, -1, -1))
        self.bias = nn.Parameter(torch.zeros(1).expand(2**40))


def test_images_that_are_encoded_and_validated_are_named_with_their_size(tiny_model: Path, tmp_path: Path) -> None:
    components, accelerator = FAMILY.load(ModelSource(str(tiny_model))), Accelerator(cpu=True)
    manifest = read_manifest(str(save_pictures(tmp_path / "images", count=2, size=32)))
    encoder = Encoder(FAMILY, components, accelerator.device, text_encoder_is_trained=False)
    buckets, data = [Bucket(32, 16, (0, 1))], DataConfig(str(tmp_path / "images"), resolution=32, bucket_step=16)
    images = TrainingImages(manifest.records, buckets, manifest.source, data, held_out=buckets)
    encoded = build_caches(encoder, accelerator, images, CacheConfig(), tmp_path / "cache", torch.float32)

    components.denoiser.conv_in = Widening(components.denoiser.conv_in)
    task = Denoising(FAMILY.objective(components.scheduler, LossConfig()), encoder)
    dataset = TrainingDataset(images, encoded, 0)
    network = Network(FAMILY, components.denoiser)
    with pytest.raises(ValueError, match=r"out of memory in a validation: 2 images of 32x16.* train\.batch_size"):
        validation_loss(network, task, HeldOut(images, dataset, 4, 1), accelerator, stop=lambda: False)
    components.vae.encoder.conv_in = Widening(components.vae.encoder.conv_in)
    pieces = [("key", Piece(manifest.records[0], validation_view(buckets[0])))]
    with pytest.raises(ValueError, match=r"out of memory while 1 image of 32x16 were encoded.* data\.resolution"):
        list(encode_images(encoder, ImageFiles(manifest.source, manifest.kept), pieces))


def test_weights_that_do_not_fit_into_memory_are_not_called_damaged(tiny_model: Path) -> None:
    with pytest.raises(RuntimeError, match="allocate memory"):
        loaded(allocate, ModelSource(str(tiny_model)), "unet")


def test_a_checkpoint_that_does_not_fit_into_memory_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="allocate memory"):
        read(tmp_path, allocate)


def test_what_nobody_explained_is_a_sentence_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model.source", "MODEL", "--data.folder", str(save_pictures(tmp_path / "images", count=1, size=16))]
    options += ["--output.folder", str(tmp_path / "out"), "--model.family", "sd"]
    stages, handlers = [Stage(tmp_path / "out", lambda: None, allocate)], {n: signal.getsignal(n) for n in SIGNALS}
    try:
        with pytest.raises(SystemExit) as ended:
            run_recipe(Recipe(TrainConfig, lambda config: stages), options, "test")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("error: out of memory: ") and "train.batch_size" in said
