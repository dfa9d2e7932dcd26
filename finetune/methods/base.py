"""The interface of a tuning method, and the input of its export."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from finetune.config.optim import OptimConfig
from finetune.config.train import TrainConfig
from finetune.export.metadata import RunFacts
from finetune.models.family import AutoencoderNetwork, Components, ModelFamily, ModelSource, Network
from finetune.models.parts import Part
from finetune.objectives.diffusion import Objective
from finetune.optim.groups import ParamGroup
from finetune.out_of_memory import explaining_out_of_memory


@dataclass(frozen=True)
class TrainedModel:
    """A finished run as its method's export receives it. Everything is on the CPU."""

    family: ModelFamily
    source: ModelSource
    components: Components
    """With the scheduler for sampling. Without weights, except text encoders of the network, where the method does not
    export all.
    """
    network: nn.Module
    objective: Objective
    state: dict[str, Tensor]
    """The trained weights by parameter name of `Network`; averages if EMA is on."""
    config: TrainConfig
    facts: RunFacts


def explaining_export() -> AbstractContextManager[None]:
    """Explain running out of memory by the export. It has a base model in float32 beside what was trained."""
    return explaining_out_of_memory(
        "while the model was exported, for which the CPU computes in float32",
        "The last checkpoint has all that was trained. Run the same command with more memory to export it.",
    )


class TuningMethod(Protocol):
    """A method that makes a network trainable and exports the result."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts in its network."""
        ...

    @property
    def alters_weights(self) -> bool:
        """True if the model's own weights change, which takes float32. Others may stay as they are stored."""
        ...

    @property
    def exports_all(self) -> bool:
        """True if the export is a whole model and needs all weights."""
        ...

    def check(self, family: ModelFamily, components: Components) -> list[str]:
        """Return warnings. Raise ValueError where the method's options do not fit the model. The parts have no weights
        yet."""
        ...

    def network(self, family: ModelFamily, components: Components) -> Network | AutoencoderNetwork:
        """Return the root module around the trained parts."""
        ...

    def attach(self, network: Any, seed: int) -> None:
        """Set `requires_grad`, and add the method's own parameters. The result is the same on every process."""
        ...

    def param_groups(self, network: Any, config: OptimConfig) -> list[ParamGroup]:
        """Return the trained parameters with their learning rates, after `attach`."""
        ...

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Write every layout, reload each and compare. Returns the relative difference of the denoiser's output by
        path; raises ValueError where one is too large."""
        ...
