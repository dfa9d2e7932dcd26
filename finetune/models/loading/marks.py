"""What the weights of a single file say of their objective, in keys and metadata that other programs write and read.

The scheduler's config of a single file is borrowed from another model, so what the weights say goes before it, and an
option may correct what they leave open.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from finetune.models.family import ModelSource

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
NOTHING_SAID = ("", "none", "unknown", "n/a")
ARCHITECTURES = {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}
"""Names of ModelSpec that tell the objective, without what may follow a slash."""


@dataclass(frozen=True)
class Marks:
    """The objective that a file's weights state, as far as they do."""

    prediction_type: str | None = None
    prediction_mark: str = ""
    """Where that is said."""
    zero_snr_mark: str = ""
    """Where zero terminal SNR is said; empty where it is not."""
    unknown: str = ""
    """A field whose value no objective is known by."""


def read_marks(source: ModelSource) -> Marks:
    """Return the marks of a single file; ValueError where they contradict each other or name an objective that is not
    trained here."""
    name = Path(source.location).name
    try:
        with safe_open(source.location, framework="pt") as file:
            keys, metadata = set(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"model.source: the single file {name} is not an intact safetensors file ({error}). Download it again."
        ) from error
    said, unknown = predictions(keys, metadata)
    if len(set(said.values())) > 1:
        raise ValueError(
            f"model.source: the single file {name} contradicts itself: "
            f"{' and '.join(f'{mark} says {value}' for mark, value in said.items())}. Ask who made it which is right, "
            "and save it without the wrong mark."
        )
    zero = f"the key {ZERO_SNR_KEY}" if ZERO_SNR_KEY in keys else ""
    if metadata.get("ss_zero_terminal_snr") == "True":
        zero = zero or "ss_zero_terminal_snr True"
    mark, prediction = next(iter(said.items()), ("", None))
    if zero and prediction == "epsilon":
        raise ValueError(
            f"model.source: the single file {name} contradicts itself: {mark} says epsilon, and {zero} says zero "
            "terminal SNR, where epsilon says nothing. Ask who made it which is right, and save it without the wrong "
            "mark."
        )
    return Marks(prediction, mark, zero, unknown)


def refuse_edm(keys: Iterable[str], name: str) -> None:
    """Raise ValueError for the weights of a model that is trained with noise levels of another kind."""
    found = sorted(set(keys).intersection(EDM_KEYS))
    if found:
        raise ValueError(
            f"model.source: the single file {name} holds {found[0]}: its noise levels and scaling are those of EDM "
            "(arXiv 2206.00364), as in CosXL and Playground v2.5, which are not trained here. Choose a model that "
            "predicts epsilon or v."
        )


def predictions(keys: set[str], metadata: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return what each mark says is predicted, and a field whose value is not known."""
    said, unknown = {}, ""
    if V_KEY in keys:
        said[f"the key {V_KEY}"] = "v_prediction"
    for field in PREDICTION_FIELDS:
        value = metadata.get(field, "").strip()
        if value.lower() in PREDICTIONS:
            said[f"{field} {value}"] = PREDICTIONS[value.lower()]
        elif value.lower() not in NOTHING_SAID:
            unknown = f"{field} {value}"
    architecture = metadata.get("modelspec.architecture", "").partition("/")[0]
    if architecture in ARCHITECTURES:
        said[f"modelspec.architecture {architecture}"] = ARCHITECTURES[architecture]
    if metadata.get("ss_v_parameterization") == "True":
        said["ss_v_parameterization True"] = "v_prediction"
    return said, unknown


def settled(settings: Mapping[str, Any], source: ModelSource) -> tuple[dict[str, Any], list[str]]:
    """Return the scheduler's settings as a single file's weights and `loss.prediction_type` have them, and what the
    user should know; ValueError where those two contradict each other."""
    marks, name = read_marks(source), Path(source.location).name
    stated, rescaled = settings.get("prediction_type", "epsilon"), settings.get("rescale_betas_zero_snr", False)
    option, warnings = source.prediction_type, []
    if marks.unknown and option is None:
        raise ValueError(
            f"model.source: {name} says {marks.unknown}, which is not a known objective of its architecture, expected "
            f"one of {', '.join(sorted(set(PREDICTIONS)))}. Give what it predicts with --loss.prediction_type."
        )
    if marks.prediction_type is not None and option not in (None, marks.prediction_type):
        raise ValueError(
            f"loss.prediction_type: got {option}, but the weights of {name} say {marks.prediction_type} "
            f"({marks.prediction_mark}). Remove the option; if the mark is wrong, save a copy of the file without it."
        )
    chosen = option or marks.prediction_type or stated
    zero = bool(marks.zero_snr_mark) or (rescaled and chosen != "epsilon")
    if marks.zero_snr_mark and chosen == "epsilon":
        raise ValueError(
            f"model.source: the weights of {name} say zero terminal SNR ({marks.zero_snr_mark}), but not what they "
            "predict, and it cannot be epsilon: the last timestep would carry no signal to learn. Give what they "
            "predict with --loss.prediction_type v_prediction; if the mark is wrong, save a copy of the file without "
            "it."
        )
    said = " and ".join(filter(None, (marks.prediction_mark, marks.zero_snr_mark)))
    if (chosen, zero) == (stated, rescaled):
        return dict(settings), []
    terms = f"{chosen}{' with zero terminal SNR' if zero else ''}"
    borrowed = f"the scheduler of model.config says {stated}{' with zero terminal SNR' if rescaled else ''}"
    if said:
        warnings.append(f"model.source: {name} trains as {terms}, since its weights say so ({said}); {borrowed}.")
    else:
        warnings.append(
            f"loss.prediction_type: {name} trains as {terms}, as the option says; its weights say nothing of it, and "
            f"{borrowed}."
        )
    changes: dict[str, Any] = {"prediction_type": chosen, "rescale_betas_zero_snr": zero}
    if zero and not rescaled:
        changes["timestep_spacing"] = "trailing"  # others never begin at the last timestep (arXiv 2305.08891)
    return dict(settings) | changes, warnings
