"""`finetune export`: a model as one file in its first published layout."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.config.checks import refuse
from finetune.config.loss import LossConfig
from finetune.config.new_outputs import new_output_problems
from finetune.config.sections import ModelConfig


@dataclass(frozen=True)
class ExportConfig:
    """Options of `finetune export`."""

    model: ModelConfig
    """The model, named before the options: a folder in diffusers layout, a Hub id, or a single file."""
    output: Path
    """The new .safetensors file."""
    dtype: Literal["fp16", "bf16", "fp32", "fp8"] = "fp16"
    """Number format of the weights. fp8 is e4m3 without scales for the weights of the denoiser's layers, as ComfyUI and
    Forge read it; all else is fp16 then."""

    def __post_init__(self) -> None:
        refuse(self)

    def problems(self) -> list[str]:
        if self.output.suffix != ".safetensors":
            return [f"output: got {self.output}, expected a name that ends with .safetensors. Choose such a name."]
        return list(new_output_problems(self.output, "a new file"))


def export_model(config: ExportConfig, say: Callable[[str], None] = print) -> Path:
    """Write the file; return its path."""
    from finetune.export.damaged_model import refuse_damaged_model
    from finetune.export.one_file import save_one_file
    from finetune.models import family_named
    from finetune.models.family import ModelSource
    from finetune.models.loading.components import find_family

    source = ModelSource.from_config(config.model)
    family = family_named(find_family(source, config.model.family))
    components = family.load(source)
    refuse_damaged_model("model.source", source.location, components)
    objective = family.objective(components.scheduler, LossConfig())
    rounding = save_one_file(family, components, objective, dtype=config.dtype, path=config.output, say=say)
    say(
        f"{config.output}: {source.location} in one file; {config.dtype} changes the output by {rounding:.1e} relative."
    )
    return config.output
