"""Training of a VAE."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.batches.buckets import assign_buckets
from finetune.batches.pixels import record_pixels
from finetune.batches.view import View
from finetune.config.optim import OptimConfig
from finetune.config.sections import DataConfig
from finetune.data.manifest import Manifest
from finetune.export.pipeline import save_full_pipeline
from finetune.methods.base import TrainedModel
from finetune.models.family import AutoencoderNetwork, Components, ModelFamily
from finetune.models.interfaces import VAE
from finetune.models.parts import Part
from finetune.optim.ema import load_trained_state
from finetune.optim.groups import ParamGroup, usual_groups
from finetune.randomness import generator

MEASURED_IMAGES = 256


@dataclass(frozen=True)
class Autoencoder:
    """All weights of the VAE."""

    manifest: Manifest
    """The images from whose latents the scaling factor is measured."""
    data: DataConfig
    alters_weights = True
    exports_all = True

    @property
    def parts(self) -> tuple[Part, ...]:
        return ("vae",)

    def check(self, family: ModelFamily, components: Components) -> list[str]:
        return []  # any VAE fits

    def network(self, family: ModelFamily, components: Components) -> AutoencoderNetwork:
        return AutoencoderNetwork(components.vae)

    def attach(self, network: AutoencoderNetwork, seed: int) -> None:
        network.requires_grad_(True)

    def param_groups(self, network: AutoencoderNetwork, config: OptimConfig) -> list[ParamGroup]:
        return usual_groups(network, config)

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Write `folder` as a pipeline in float32, with the other parts unchanged."""
        load_trained_state(model.network, model.state)
        vae = model.components.vae
        vae.register_to_config(scaling_factor=scaling_factor(model.family, vae, self.manifest, self.data))
        return {
            folder: save_full_pipeline(model.family, model.components, dtype="fp32", folder=folder, source=model.source)
        }


@torch.no_grad()
def scaling_factor(family: ModelFamily, vae: VAE, manifest: Manifest, data: DataConfig) -> float:
    """Return one over the standard deviation of the latents. At most MEASURED_IMAGES images are measured (arXiv
    2112.10752, appendix G)."""
    vae.register_to_config(scaling_factor=1.0)
    latents = []
    for bucket in assign_buckets(manifest.records, data):
        for index in bucket.records[:: math.ceil(len(manifest.records) / MEASURED_IMAGES)]:
            record = manifest.records[index]
            pixels = record_pixels(manifest.source, record, View(bucket.width, bucket.height, 0.5, 0.5, False))
            latents.append(family.encode_images(vae, pixels[None], [generator(0, "scaling", record.sha256)]).flatten())
    return 1 / torch.cat(latents).std().item()
