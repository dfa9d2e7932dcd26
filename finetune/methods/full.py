"""All weights, or those that patterns choose."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.config.optim import OptimConfig
from finetune.config.recipes import FullConfig
from finetune.export.one_file import save_one_file
from finetune.export.pipeline import save_full_pipeline
from finetune.methods.base import TrainedModel
from finetune.models.family import Components, ModelFamily, Network, is_inside
from finetune.models.parts import Part
from finetune.optim.ema import load_trained_state
from finetune.optim.groups import ParamGroup, usual_groups


@dataclass(frozen=True)
class Full:
    """All or chosen weights of the denoiser and a trained text encoder."""

    config: FullConfig = field(default_factory=FullConfig)
    text_encoder: bool = False
    alters_weights = True
    exports_all = True

    @property
    def parts(self) -> tuple[Part, ...]:
        return ("denoiser", "text_encoders") if self.text_encoder else ("denoiser",)

    def check(self, family: ModelFamily, components: Components) -> list[str]:
        self.chosen(self.network(family, components))
        return []

    def network(self, family: ModelFamily, components: Components) -> Network:
        return Network.from_components(family, components, text_encoder=self.text_encoder)

    def chosen(self, network: Network) -> set[str]:
        """Return the parameters that train. Raises ValueError for a pattern without a match, and where nothing is
        left."""
        unread = network.family.unread_layers(network.trained_text_encoders)
        names = [name for name, _ in network.named_parameters() if not is_inside(name, unread)]
        chosen = trained_names(names, self.config)
        if len(network.text_encoders) and not any(name.startswith("text_encoders.") for name in chosen):
            raise ValueError(
                "train.text_encoder: got true, but full.train and full.freeze leave nothing of it to train. Set it to "
                "false, so its embeddings can be cached."
            )
        return chosen

    def attach(self, network: Network, seed: int) -> None:
        chosen = self.chosen(network)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in chosen)

    def param_groups(self, network: Network, config: OptimConfig) -> list[ParamGroup]:
        return usual_groups(network, config)

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Write `folder` as a pipeline. Where the options say so, one file of it is inside."""
        load_trained_state(model.network, model.state)
        dtype = model.config.output.dtype
        difference = save_full_pipeline(model.family, model.components, dtype=dtype, folder=folder, source=model.source)
        if not model.config.output.one_file:
            return {folder: difference}
        path = folder / f"{model.config.output.export_name}.safetensors"
        return {
            folder: difference,
            path: save_one_file(model.family, model.components, model.objective, dtype=dtype, path=path),
        }


def trained_names(names: Sequence[str], config: FullConfig) -> set[str]:
    """Return the parameters that train. Raises ValueError as `trained_names`, and for an unused text encoder."""
    examples = ", ".join(dict.fromkeys(".".join(name.split(".")[:3]) for name in names))
    for key, patterns in (("train", config.train), ("freeze", config.freeze)):
        for pattern in patterns:
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(f'full.{key}: "{pattern}" matches no weight ({len(names):,} in all), of {examples}.')
    chosen = {name for name in names if not config.train or any(re.search(p, name) for p in config.train)}
    chosen -= {name for name in names if any(re.search(p, name) for p in config.freeze)}
    if not chosen:
        raise ValueError(
            f"full.freeze: {' '.join(config.freeze)} leaves none of the weights of full.train to train. Remove a "
            "pattern."
        )
    return chosen
