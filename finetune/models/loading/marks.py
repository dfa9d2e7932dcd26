"""Objectives that a single file states in keys and metadata.

Other programs write and read them. The scheduler's config of a single file is borrowed from another model, so the marks
in the weights go before it, and an option may add what they leave open.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.models.family import ModelSource
from finetune.models.loading.weight_keys import opened

V_KEY, ZERO_SNR_KEY = "v_pred", "ztsnr"
"""Empty tensors by which ComfyUI, Forge and OneTrainer know v-prediction models; NoobAI-XL V-Pred has both."""
EDM_KEYS = ("edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
"""Tensors of models with the noise levels of EDM: CosXL has the first two, Playground v2.5 the others."""
PREDICTION_FIELDS = ("modelspec.prediction_type", "modelspec.predict_key")
"""The field of ModelSpec, and what ComfyUI writes in its place."""
PREDICTIONS = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "v_pred": "v_prediction",
    "vpred": "v_prediction",
    "sample": "sample",
}
NO_VALUE = ("", "none", "unknown", "n/a")
ARCHITECTURES = {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}
"""Names of ModelSpec that fix the objective, without what may follow a slash."""


@dataclass(frozen=True)
class Marks:
    """The objective that a file's weights state, as far as they do."""

    prediction_type: str | None = None
    prediction_mark: str = ""
    """The key or field that states it."""
    zero_snr_mark: str = ""
    """The key or field that states zero terminal SNR; empty without one."""
    unknown: str = ""
    """A field with an unknown value."""


def read_marks(source: ModelSource) -> Marks:
    """Return the marks of a single file. Raises ValueError where they contradict each other."""
    name = Path(source.location).name
    with opened(Path(source.location), f"the single file {name}") as file:
        keys, metadata = set(file.keys()), file.metadata() or {}
    found, unknown = predictions(keys, metadata)
    if len(set(found.values())) > 1:
        raise ValueError(
            f"model.source: the single file {name} contradicts itself: "
            f"{' and '.join(f'{mark} means {value}' for mark, value in found.items())}. Ask who made it which is "
            "right, and save it without the wrong mark."
        )
    zero = f"the key {ZERO_SNR_KEY}" if ZERO_SNR_KEY in keys else ""
    if metadata.get("ss_zero_terminal_snr") == "True":
        zero = zero or "ss_zero_terminal_snr True"
    mark, prediction = next(iter(found.items()), ("", None))
    if zero and prediction == "epsilon":
        raise ValueError(
            f"model.source: the single file {name} contradicts itself: {mark} means epsilon, and {zero} means zero "
            "terminal SNR, where epsilon has no signal. Ask who made it which is right, and save it without the wrong "
            "mark."
        )
    return Marks(prediction, mark, zero, unknown)


def refuse_edm(keys: Iterable[str], name: str) -> None:
    """Raise ValueError for weights trained with EDM's noise levels."""
    if found := sorted(set(keys).intersection(EDM_KEYS)):
        raise ValueError(
            f"model.source: the single file {name} holds {found[0]}: its noise levels and scaling are those of EDM "
            "(arXiv 2206.00364), as in CosXL and Playground v2.5, which are not trained here. Choose a model that "
            "predicts epsilon or v."
        )


def predictions(keys: set[str], metadata: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return each mark's prediction, and a field of unknown value."""
    found, unknown = {}, ""
    if V_KEY in keys:
        found[f"the key {V_KEY}"] = "v_prediction"
    for field in PREDICTION_FIELDS:
        value = metadata.get(field, "").strip()
        if value.lower() in PREDICTIONS:
            found[f"{field} {value}"] = PREDICTIONS[value.lower()]
        elif value.lower() not in NO_VALUE:
            unknown = f"{field} {value}"
    architecture = metadata.get("modelspec.architecture", "").partition("/")[0]
    if architecture in ARCHITECTURES:
        found[f"modelspec.architecture {architecture}"] = ARCHITECTURES[architecture]
    if metadata.get("ss_v_parameterization") == "True":
        found["ss_v_parameterization True"] = "v_prediction"
    return found, unknown


def corrected_settings(settings: Mapping[str, object], source: ModelSource) -> tuple[dict[str, object], list[str]]:
    """Return the scheduler's settings, corrected by marks and `loss.prediction_type`. Also returns warnings. Raises
    ValueError where marks and option contradict each other."""
    marks, name = read_marks(source), Path(source.location).name
    stated, rescaled = settings.get("prediction_type", "epsilon"), settings.get("rescale_betas_zero_snr", False)
    option = source.prediction_type
    if marks.unknown and option is None:
        raise ValueError(
            f"model.source: {name} has {marks.unknown}, which is not a known objective of its architecture, expected "
            f"one of {', '.join(sorted(set(PREDICTIONS)))}. Set what it predicts with --loss.prediction_type."
        )
    if marks.prediction_type is not None and option not in (None, marks.prediction_type):
        raise ValueError(
            f"loss.prediction_type: got {option}, but the weights of {name} are marked {marks.prediction_type} "
            f"({marks.prediction_mark}). Remove the option; if the mark is wrong, save a copy of the file without it."
        )
    chosen = option or marks.prediction_type or stated
    zero = bool(marks.zero_snr_mark) or (rescaled and chosen != "epsilon")
    if marks.zero_snr_mark and chosen == "epsilon":
        raise ValueError(
            f"model.source: the weights of {name} are marked zero terminal SNR ({marks.zero_snr_mark}), but not "
            "what they predict, and it cannot be epsilon: the last timestep would carry no signal to learn. Set what "
            "they predict with --loss.prediction_type v_prediction; if the mark is wrong, save a copy of the file "
            "without it."
        )
    if (chosen, zero) == (stated, rescaled):
        return dict(settings), []
    terms = f"{chosen}{' with zero terminal SNR' if zero else ''}"
    borrowed = f"the scheduler of model.config has {stated}{' with zero terminal SNR' if rescaled else ''}"
    if marked := " and ".join(filter(None, (marks.prediction_mark, marks.zero_snr_mark))):
        warning = f"model.source: {name} trains as {terms}, since its weights are marked so ({marked}); {borrowed}."
    else:
        warning = (
            f"loss.prediction_type: {name} trains as {terms}, as the option sets; its weights are not marked, and "
        )
        warning += f"{borrowed}."
    changes: dict[str, object] = {"prediction_type": chosen, "rescale_betas_zero_snr": zero}
    if zero and not rescaled:
        changes["timestep_spacing"] = "trailing"  # others never begin at the last timestep (arXiv 2305.08891)
    return dict(settings) | changes, [warning]
