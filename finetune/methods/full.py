"""All weights."""

from dataclasses import dataclass
from pathlib import Path

from finetune.config_optim import OptimConfig
from finetune.data.encode import Encoder
from finetune.ema import load_trained_state
from finetune.export.pipeline import save_full_pipeline
from finetune.methods.base import TrainedModel
from finetune.models.base import Components, ModelFamily, Network
from finetune.objectives import Objective
from finetune.param_groups import ParamGroup, usual_groups
from finetune.tasks import Denoising


@dataclass(frozen=True)
class Full:
    """All weights of the denoiser, and of the text encoder where it is trained."""

    def network(self, family: ModelFamily, components: Components, *, text_encoder: bool) -> Network:
        return Network(family, components.denoiser, components.text_encoders if text_encoder else ())

    def attach(self, network: Network, seed: int) -> None:
        network.requires_grad_(True)

    def param_groups(self, network: Network, config: OptimConfig) -> list[ParamGroup]:
        return usual_groups(network, config)

    def task(self, family: ModelFamily, components: Components, objective: Objective, encoder: Encoder) -> Denoising:
        return Denoising(objective, encoder)

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Writes `folder` as a whole pipeline in diffusers layout."""
        load_trained_state(model.network, model.state)
        difference = save_full_pipeline(model.family, model.components, dtype=model.config.output.dtype, folder=folder)
        return {folder: difference}
