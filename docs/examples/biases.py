"""A method: train the biases of the denoiser alone (BitFit, arXiv 2106.10199)."""

from pathlib import Path

from finetune.config.optim import OptimConfig
from finetune.export.pipeline import save_full_pipeline
from finetune.methods.base import TrainedModel
from finetune.models.family import Components, ModelFamily, Network
from finetune.models.parts import Part
from finetune.optim.ema import load_trained_state
from finetune.optim.groups import ParamGroup, usual_groups


class Biases:
    """The biases of the denoiser."""

    parts: tuple[Part, ...] = ("denoiser",)
    alters_weights = True
    exports_all = True

    def check(self, family: ModelFamily, components: Components) -> list[str]:
        return []  # every model fits

    def network(self, family: ModelFamily, components: Components) -> Network:
        return Network(family, components.denoiser)

    def attach(self, network: Network, seed: int) -> None:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.endswith(".bias"))

    def param_groups(self, network: Network, config: OptimConfig) -> list[ParamGroup]:
        return usual_groups(network, config)

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        load_trained_state(model.network, model.state)
        dtype = model.config.output.dtype
        return {folder: save_full_pipeline(model.family, model.components, dtype=dtype, folder=folder)}
