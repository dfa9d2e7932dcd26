"""Low-rank adapters."""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from torch import nn

from finetune.config_methods import LoRAConfig
from finetune.config_optim import OptimConfig
from finetune.data.encode import Encoder
from finetune.export.lora import save_diffusers_lora, save_kohya_lora
from finetune.export.metadata import LoRAFacts, lora_metadata
from finetune.export.verify import lora_differences, require_equal
from finetune.methods.base import TrainedModel
from finetune.models.base import Components, ModelFamily, Network
from finetune.objectives import Objective
from finetune.param_groups import ParamGroup, usual_groups
from finetune.tasks import Denoising


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

    def param_groups(self, network: Network, config: OptimConfig) -> list[ParamGroup]:
        return usual_groups(network, config)

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
            loss=config.loss,
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
