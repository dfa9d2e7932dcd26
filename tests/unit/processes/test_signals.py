import signal
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from finetune.batches.buckets import Bucket
from finetune.batches.dataset import Encoded, TrainingDataset, TrainingImages
from finetune.batches.encoder import Encoder
from finetune.config.loss import LossConfig
from finetune.config.sections import DataConfig
from finetune.data.manifest import read_manifest
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource, Network
from finetune.processes.signals import StopRequest, caught_signals
from finetune.run.validate import HeldOut, validation_loss
from finetune.tasks.denoising import Denoising
from finetune.tasks.reconstruction import Reconstruction
from tests.tiny.sd import save_pictures

FAMILY = StableDiffusion()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_hangup_that_was_ignored_at_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the suite itself may run under nohup
    try:
        assert signal.SIGHUP in caught_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        assert signal.SIGHUP not in caught_signals() and signal.SIGTERM in caught_signals()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_interrupts_while_saving_and_soon_after_the_first_are_one_request() -> None:
    before = {number: signal.getsignal(number) for number in caught_signals()}
    stop = StopRequest()
    stop.install()
    try:
        assert not stop.requested()
        signal.raise_signal(signal.SIGINT)
        assert stop.requested() and stop.signal == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
        stop._since -= 100
        with stop.saving():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == stop._remember  # where it ended the process, this were SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_validation_hears_a_request_between_two_timesteps(tiny_model: Path, tmp_path: Path) -> None:
    components, accelerator = FAMILY.load(ModelSource(str(tiny_model))), Accelerator(cpu=True)
    manifest = read_manifest(str(save_pictures(tmp_path, count=3, size=32)))
    encoder = Encoder(FAMILY, components, accelerator.device, text_encoder_is_trained=False)
    buckets, data = [Bucket(32, 32, (0, 1, 2))], DataConfig(str(tmp_path), resolution=32, bucket_step=16)
    uncached = Encoded("", "", torch.float32, None, None)
    task = Denoising(FAMILY.objective(components.scheduler, LossConfig()), encoder)
    images = TrainingImages(manifest.records, buckets, manifest.source, data, held_out=buckets)
    dataset = TrainingDataset(images, uncached, 0)
    network, passes = Network(FAMILY, components.denoiser), []
    network.register_forward_hook(lambda *_: passes.append(1))
    held_out = HeldOut(images, dataset, batch_size=2, num_timesteps=50)
    loss = validation_loss(network, task, held_out, accelerator, stop=lambda: len(passes) == 2)
    assert loss is None and len(passes) == 2


def test_a_validation_that_is_asked_to_stop_gives_no_loss() -> None:
    nothing = cast(Any, None)  # no image is read
    images = TrainingImages((), (), nothing, DataConfig(folder="images"), held_out=[Bucket(64, 64, (0, 1, 2))])
    task, held_out = Reconstruction(4, 8, 0.0, 0.0), HeldOut(images, nothing, 2, num_timesteps=4)
    assert validation_loss(nn.Identity(), task, held_out, Accelerator(cpu=True), stop=lambda: True) is None
