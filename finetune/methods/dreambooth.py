"""A method with the class kept by the untouched model's own predictions."""

from dataclasses import dataclass
from pathlib import Path

from finetune.batches.encoder import Encoder
from finetune.config.optim import OptimConfig
from finetune.methods.base import TrainedModel
from finetune.methods.full import Full
from finetune.methods.lora.method import LoRA
from finetune.models.family import Components, ModelFamily, Network
from finetune.models.parts import Part
from finetune.objectives.diffusion import Objective
from finetune.optim.groups import ParamGroup
from finetune.run.device import compute_dtype
from finetune.tasks.preservation import AdaptersOff, Preserving, frozen_copy, preserving


@dataclass(frozen=True)
class PredictionPreserving:
    """LoRA or Full, with the prior of DreamBooth as `prior.kind` prediction describes it."""

    method: LoRA | Full
    prompt: str
    weight: float

    def parts(self, *, text_encoder: bool) -> tuple[Part, ...]:
        return self.method.parts(text_encoder=text_encoder)

    @property
    def alters_weights(self) -> bool:
        return self.method.alters_weights

    @property
    def exports_all(self) -> bool:
        return self.method.exports_all

    def check(self, family: ModelFamily, components: Components, *, text_encoder: bool) -> None:
        self.method.check(family, components, text_encoder=text_encoder)

    def network(self, family: ModelFamily, components: Components, *, text_encoder: bool) -> Network:
        return self.method.network(family, components, text_encoder=text_encoder)

    def attach(self, network: Network, seed: int) -> None:
        self.method.attach(network, seed)

    def param_groups(self, network: Network, config: OptimConfig) -> list[ParamGroup]:
        return self.method.param_groups(network, config)

    def task(self, family: ModelFamily, components: Components, objective: Objective, encoder: Encoder) -> Preserving:
        """The weights are still those of the model here: a checkpoint's are put in place later."""
        if isinstance(self.method, LoRA):
            untouched = AdaptersOff()
        else:
            trains_text = encoder.text_encoder_is_trained
            untouched = frozen_copy(family, components, encoder, text_encoder=trains_text, dtype=compute_dtype())
        denoising = self.method.task(family, components, objective, encoder)
        return preserving(denoising, components, untouched, prompt=self.prompt, weight=self.weight)

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        return self.method.export(model, folder)
