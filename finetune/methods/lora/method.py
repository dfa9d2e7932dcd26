"""Low-rank adapters and their relatives."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from finetune.config.lora import LoRAConfig
from finetune.config.optim import OptimConfig
from finetune.methods.base import TrainedModel
from finetune.methods.lora.adapters import attach_adapters, planned_layers
from finetune.methods.lora.export import export_adapters
from finetune.methods.lora.start import check_start, read_start, sizes_with_start
from finetune.models.family import Components, ModelFamily, Network
from finetune.models.parts import Part
from finetune.optim.groups import ParamGroup, usual_groups


@dataclass(frozen=True)
class LoRA:
    """Adapters of one kind on denoiser and trained text encoder."""

    config: LoRAConfig
    text_encoder: bool = False
    exports_all = False

    @property
    def parts(self) -> tuple[Part, ...]:
        return ("denoiser", "text_encoders") if self.text_encoder else ("denoiser",)

    @property
    def alters_weights(self) -> bool:
        return self.config.init in ("pissa", "olora")

    def check(self, family: ModelFamily, components: Components) -> list[str]:
        _, sizes = planned_layers(self.network(family, components), self.config)
        start = read_start(self.config, Network(family, components.denoiser, components.text_encoders))
        ranks, _ = sizes_with_start(self.config, start, *sizes)
        return check_start(self.config, start, ranks, family.unread_layers(components.text_encoders))

    def network(self, family: ModelFamily, components: Components) -> Network:
        if self.config.kind == "lora" and not family.reads_lora:
            raise ValueError(
                f"lora.kind: got lora, but diffusers' pipeline of {family.title} reads no such files, expected another "
                "kind. Use --lora.kind loha or lokr."
            )
        if self.config.kind == "lora" and self.text_encoder and not family.reads_text_encoder_lora:
            raise ValueError(
                f"train.text_encoder: got true, but diffusers' pipeline of {family.title} reads LoRA of the denoiser "
                "alone. Set it to false, or use --lora.kind loha or lokr."
            )
        return Network.from_components(family, components, text_encoder=self.text_encoder)

    def attach(self, network: Network, seed: int) -> None:
        attach_adapters(network, self.config, seed)

    def param_groups(self, network: Network, config: OptimConfig) -> list[ParamGroup]:
        """Return each part's parameters, split where rate or decay differs. These are B in LoRA+ (NAME_b), and the
        lengths of DoRA (NAME_magnitude), which decay would pull to zero instead of the base model."""
        groups = usual_groups(network, config)
        if self.config.plus_ratio != 1:
            groups = [
                piece
                for group in groups
                for piece in split_off(group, "b", named(network, ".lora_B."), lr=group.lr * self.config.plus_ratio)
            ]
        if self.config.dora:
            groups = [
                piece
                for group in groups
                for piece in split_off(group, "magnitude", named(network, ".lora_magnitude_vector."), weight_decay=0.0)
            ]
        if self.config.init in ("pissa", "olora"):
            groups = [replace(group, weight_decay=0.0) for group in groups]
        return groups

    def export(self, model: TrainedModel, folder: Path) -> dict[Path, float]:
        """Write files for diffusers or peft, and for other tools. ComfyUI, A1111 and Forge read `NAME.safetensors`."""
        return export_adapters(self.config, model, folder)


def named(network: nn.Module, text: str) -> set[int]:
    """Return the identities of the parameters whose name contains the text."""
    return {id(parameter) for name, parameter in network.named_parameters() if text in name}


def split_off(
    group: ParamGroup, name: str, chosen: set[int], *, lr: float | None = None, weight_decay: float | None = None
) -> list[ParamGroup]:
    """Split the chosen parameters off a group, as GROUP_NAME. Empty groups are omitted."""
    rest = [parameter for parameter in group.parameters if id(parameter) not in chosen]
    apart = [parameter for parameter in group.parameters if id(parameter) in chosen]
    decay = group.weight_decay if weight_decay is None else weight_decay
    pieces = [
        replace(group, parameters=rest),
        ParamGroup(f"{group.name}_{name}", apart, group.lr if lr is None else lr, decay),
    ]
    return [piece for piece in pieces if piece.parameters]
