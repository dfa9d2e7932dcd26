"""A check that a loaded model is worth working on."""

from torch import Tensor

from finetune.models.family import Components
from finetune.plurals import first_few, plural


def refuse_damaged_model(option: str, model: str, components: Components) -> None:
    """Raise ValueError for a model with NaN or infinite numbers."""
    parts = {"denoiser": components.denoiser, "vae": components.vae}
    parts |= {f"text_encoders.{number}": encoder for number, encoder in enumerate(components.text_encoders)}
    broken = [
        f"{part}.{name}"
        for part, module in parts.items()
        for name, value in module.named_parameters()
        if not is_finite(value)
    ]
    if broken:
        raise ValueError(
            f"{option}: {model} has NaN or infinite numbers in {plural(len(broken), 'weight')} ({first_few(broken)}). "
            "Use another model."
        )


def is_finite(weight: Tensor) -> bool:
    """Check that all numbers are finite. Those of 8 bits or fewer are as they are packed."""
    return weight.element_size() == 1 or weight.is_meta or bool(weight.isfinite().all())
