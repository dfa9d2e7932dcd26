"""New tokens and adapters in one run (pivotal tuning, after arXiv 2106.05744)."""

from dataclasses import dataclass, replace
from pathlib import Path

from finetune.config.optim import OptimConfig
from finetune.methods.base import TrainedModel
from finetune.methods.lora.method import LoRA
from finetune.methods.tokens import TextualInversion, token_embeddings
from finetune.models.family import Components, ModelFamily, Network
from finetune.models.parts import Part
from finetune.optim.groups import ParamGroup


@dataclass(frozen=True)
class Pivotal:
    """Tokens and adapters together, each with its own rate and files. The name is from GAN inversion: find the point
    nearest to the image, then tune the model around it. Here both train together: adapters learn what no token can."""

    lora: LoRA
    tokens: TextualInversion
    exports_all = False

    @property
    def parts(self) -> tuple[Part, ...]:
        return ("denoiser", "text_encoders")

    @property
    def alters_weights(self) -> bool:
        return self.lora.alters_weights

    def check(self, family: ModelFamily, components: Components) -> list[str]:
        return self.lora.check(family, components)

    def network(self, family: ModelFamily, components: Components) -> Network:
        """Return the network with the text encoder, whose gradient reaches the tokens."""
        self.tokens.add_to(components)
        return Network(family, components.denoiser, components.text_encoders)

    def attach(self, network: Network, seed: int) -> None:
        self.lora.attach(self._adapted(network), seed)
        self.tokens.attach(network, seed)  # last, since adapters freeze what is not theirs

    def _adapted(self, network: Network) -> Network:
        """Return the same modules, without a text encoder that gets no adapters."""
        text_encoders = network.trained_text_encoders if self.lora.text_encoder else []
        return Network(network.family, network.denoiser, text_encoders)

    def param_groups(self, network: Network, config: OptimConfig) -> list[ParamGroup]:
        new = self.tokens.param_groups(network, config)
        own = {id(parameter) for group in new for parameter in group.parameters}
        adapters = [
            replace(group, parameters=[parameter for parameter in group.parameters if id(parameter) not in own])
            for group in self.lora.param_groups(self._adapted(network), config)
        ]
        return [group for group in adapters if group.parameters] + new

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Write the adapters' files and the tokens', which work best together."""
        new = {f"{name}.rows" for name in token_embeddings(model.network)}
        adapters = replace(model, state={key: value for key, value in model.state.items() if key not in new})
        return self.lora.export(adapters, folder) | self.tokens.export(model, folder)
