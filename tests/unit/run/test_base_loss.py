from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.batches.buckets import assign_buckets
from finetune.batches.dataset import Encoded, TrainingDataset, TrainingImages
from finetune.batches.encoder import Encoder
from finetune.config.loss import LossConfig
from finetune.config.sections import DataConfig
from finetune.data.manifest import read_manifest
from finetune.demo.run import BASE_MODEL
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components, ModelSource, Network
from finetune.run.base_loss import base_loss_warnings, base_losses
from finetune.tasks.denoising import Denoising
from finetune.tasks.reconstruction import Reconstruction
from tests.tiny.sd import save_pictures

CPU = torch.device("cpu")
FAMILY = StableDiffusion()


@pytest.fixture(scope="module")
def components() -> Components:
    """The shipped model, which predicts v."""
    return FAMILY.load(ModelSource(str(BASE_MODEL)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> TrainingDataset:
    return dataset_of(save_pictures(tmp_path_factory.mktemp("images"), count=3, size=64))


def dataset_of(folder: Path) -> TrainingDataset:
    manifest, data = read_manifest(str(folder)), DataConfig(str(folder), resolution=64)
    images = TrainingImages(manifest.records, assign_buckets(manifest.records, data), manifest.source, data)
    return TrainingDataset(images, Encoded("vae", "text", torch.float32, None, None), seed=0)


def task_of(components: Components, prediction_type: str) -> Denoising:
    kind: Any = type(components.scheduler)
    scheduler = kind.from_config(components.scheduler.config, prediction_type=prediction_type)
    encoder = Encoder(FAMILY, components, CPU, text_encoder_is_trained=False)
    return Denoising(FAMILY.objective(scheduler, LossConfig()), encoder)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
def test_the_loss_is_far_below_that_of_zero_for_the_models_own_objective_alone(
    prediction_type: str, components: Components, dataset: TrainingDataset
) -> None:
    network = Network.from_components(FAMILY, components, text_encoder=False).train()
    task, before = task_of(components, prediction_type), torch.get_rng_state()
    base, zero = base_losses(network, task, dataset, CPU)
    assert (base < 0.9 * zero) == (prediction_type == "v_prediction")
    assert torch.equal(torch.get_rng_state(), before) and network.training
    warnings = base_loss_warnings(network, task, dataset, CPU)
    assert len(warnings) == (prediction_type != "v_prediction")
    assert all(f"{base:.3g}" in text and "--loss.prediction_type" in text for text in warnings)


def test_an_autoencoder_is_not_asked(components: Components, dataset: TrainingDataset) -> None:
    assert base_loss_warnings(components.vae, Reconstruction(4, 8, 1e-6, 0.1), dataset, CPU) == []


def test_images_unlike_any_that_the_model_has_seen_are_named_as_a_reason(
    components: Components, tmp_path: Path
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    for number, pixels in enumerate(levels):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("grain")
    network = Network.from_components(FAMILY, components, text_encoder=False)
    (warning,) = base_loss_warnings(network, task_of(components, "v_prediction"), dataset_of(tmp_path), CPU)
    assert "seen nothing like these images" in warning
