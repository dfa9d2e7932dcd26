"""How a network is tuned: which parameters train, and what is exported. One class a method; nothing else asks which it
is."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from torch import Tensor, nn

from finetune.config import DataConfig, LoRAConfig, TrainConfig
from finetune.config_pretrain import AutoencoderConfig
from finetune.data.buckets import assign_buckets
from finetune.data.dataset import View, record_pixels
from finetune.data.encode import Encoder
from finetune.data.manifest import Manifest
from finetune.ema import load_trained_state
from finetune.export.lora import save_diffusers_lora, save_kohya_lora
from finetune.export.metadata import LoRAFacts, lora_metadata
from finetune.export.pipeline import save_full_pipeline
from finetune.export.verify import lora_differences, require_equal
from finetune.models.base import AutoencoderNetwork, Components, ModelFamily, ModelSource, Network
from finetune.objectives import Objective
from finetune.randomness import generator
from finetune.tasks import Denoising, Reconstruction, Task

MEASURED_PICTURES = 256


@dataclass(frozen=True)
class RunFacts:
    """What a file's metadata say of the run it comes from."""

    base_sha256: str
    steps: int
    epochs: int
    global_batch_size: int
    num_train_images: int
    dataset_location: str
    dataset_fingerprint: str
    tags: dict[str, int]
    mixed_precision: Literal["no", "fp16", "bf16"]
    started_at: float
    finished_at: float


@dataclass(frozen=True)
class TrainedModel:
    """What a finished run hands to its method's export; everything on the CPU."""

    family: ModelFamily
    source: ModelSource
    components: Components
    """With the scheduler that pictures are made with."""
    network: nn.Module
    objective: Objective
    state: dict[str, Tensor]
    """The trained weights by parameter name of `Network`, averaged where EMA is on."""
    config: TrainConfig
    facts: RunFacts


class TuningMethod(Protocol):
    """Makes a network trainable and exports what it learned."""

    def network(
        self, family: ModelFamily, components: Components, *, text_encoder: bool
    ) -> Network | AutoencoderNetwork:
        """Returns the root module around what trains."""
        ...

    def attach(self, network: Any, seed: int) -> None:
        """Sets `requires_grad` on what trains, adding parameters where the method has its own; the same on every
        process."""
        ...

    def task(self, family: ModelFamily, components: Components, objective: Objective, encoder: Encoder) -> Task:
        """Returns what the network is trained to do."""
        ...

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Writes every layout, reloads each and compares.

        Returns the relative difference of the denoiser's output by path; raises ValueError where one is too large.
        """
        ...


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on the denoiser, and on the text encoder where it is trained (arXiv 2106.09685)."""

    config: LoRAConfig

    @property
    def alpha(self) -> float:
        return self.config.rank if self.config.alpha is None else self.config.alpha

    def network(self, family: ModelFamily, components: Components, *, text_encoder: bool) -> Network:
        return Network(family, components.denoiser, components.text_encoders if text_encoder else ())

    def attach(self, network: Network, seed: int) -> None:
        family = network.family
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._inject(network.denoiser, self.config.targets or family.lora_targets)
            for text_encoder in network.text_encoders:
                self._inject(text_encoder, family.text_encoder_lora_targets)

    def _inject(self, module: nn.Module, targets: tuple[str, ...]) -> None:
        config = PeftLoraConfig(
            r=self.config.rank,
            lora_alpha=self.alpha,  # pyright: ignore[reportArgumentType]  (peft says int, and only divides it by the rank)
            lora_dropout=self.config.dropout,
            target_modules=list(targets),
        )
        try:
            inject_adapter_in_model(config, module)
        except ValueError as error:
            raise ValueError(f"lora.targets: {error}") from error

    def task(self, family: ModelFamily, components: Components, objective: Objective, encoder: Encoder) -> Denoising:
        return Denoising(objective, encoder)

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Writes `pytorch_lora_weights.safetensors` for diffusers (float32) and `NAME.safetensors` in sd-scripts'
        layout."""
        config, family = model.config, model.family
        facts = LoRAFacts(
            name=config.output.export_name,
            model_location=config.model.source,
            model_spec=family.model_spec(model.components, model.objective),
            rank=self.config.rank,
            alpha=self.alpha,
            seed=config.seed,
            batch_size=config.train.batch_size,
            accumulation=config.train.accumulation,
            resolution=config.data.resolution,
            caption_dropout=config.data.caption_dropout,
            flip=config.data.flip,
            latents_cached=config.cache.latents,
            lr=config.optim.lr,
            text_encoder_lr=(config.optim.text_encoder_lr or config.optim.lr) if config.train.text_encoder else None,
            optimizer=config.optim.name,
            schedule=config.optim.schedule,
            warmup_steps=config.optim.warmup_steps,
            max_grad_norm=config.train.max_grad_norm,
            gradient_checkpointing=config.train.gradient_checkpointing,
            lora_dropout=self.config.dropout,
            snr_gamma=config.loss.snr_gamma,
            zero_terminal_snr=config.loss.zero_terminal_snr,
            **vars(model.facts),
        )
        files = [
            save_diffusers_lora(
                family, model.components, model.state, rank=self.config.rank, alpha=self.alpha, folder=folder
            ),
            save_kohya_lora(
                family,
                model.state,
                alpha=self.alpha,
                metadata=lora_metadata(facts),
                dtype=config.output.dtype,
                path=folder / f"{config.output.export_name}.safetensors",
            ),
        ]
        differences = lora_differences(
            family, model.source, model.state, rank=self.config.rank, alpha=self.alpha, files=files
        )
        require_equal(differences)
        return {file: differences[file.name] for file in files}


@dataclass(frozen=True)
class Full:
    """All weights of the denoiser, and of the text encoder where it is trained."""

    def network(self, family: ModelFamily, components: Components, *, text_encoder: bool) -> Network:
        return Network(family, components.denoiser, components.text_encoders if text_encoder else ())

    def attach(self, network: Network, seed: int) -> None:
        network.requires_grad_(True)

    def task(self, family: ModelFamily, components: Components, objective: Objective, encoder: Encoder) -> Denoising:
        return Denoising(objective, encoder)

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Writes `folder` as a whole pipeline in diffusers layout."""
        load_trained_state(model.network, model.state)
        difference = save_full_pipeline(model.family, model.components, dtype=model.config.output.dtype, folder=folder)
        return {folder: difference}


@dataclass(frozen=True)
class Autoencoder:
    """All weights of the VAE."""

    config: AutoencoderConfig
    manifest: Manifest
    """The pictures whose latents the scaling factor brings to a standard deviation of 1."""
    data: DataConfig

    def network(self, family: ModelFamily, components: Components, *, text_encoder: bool) -> AutoencoderNetwork:
        return AutoencoderNetwork(components.vae)

    def attach(self, network: AutoencoderNetwork, seed: int) -> None:
        network.requires_grad_(True)

    def task(
        self, family: ModelFamily, components: Components, objective: Objective, encoder: Encoder
    ) -> Reconstruction:
        vae = components.vae
        return Reconstruction(
            vae.config.latent_channels, family.pixel_multiple(vae), self.config.kl_weight, self.config.edge_weight
        )

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Writes `folder` as a whole pipeline in float32, its other parts as they were."""
        load_trained_state(model.network, model.state)
        vae = model.components.vae
        vae.register_to_config(scaling_factor=scaling_factor(model.family, vae, self.manifest, self.data))
        return {folder: save_full_pipeline(model.family, model.components, dtype="fp32", folder=folder)}


@torch.no_grad()
def scaling_factor(family: ModelFamily, vae: Any, manifest: Manifest, data: DataConfig) -> float:
    """Returns one over the standard deviation of the latents, over at most MEASURED_PICTURES pictures (arXiv
    2112.10752, appendix G)."""
    vae.register_to_config(scaling_factor=1.0)
    latents = []
    for bucket in assign_buckets(manifest.records, data):
        for index in bucket.records[:: math.ceil(len(manifest.records) / MEASURED_PICTURES)]:
            record = manifest.records[index]
            pixels = record_pixels(manifest.source, record, View(bucket.width, bucket.height, 0.5, 0.5, False))
            latents.append(family.encode_images(vae, pixels[None], [generator(0, "scaling", record.sha256)]).flatten())
    return 1 / torch.cat(latents).std().item()
