"""The learned scores, one row each, and their options."""

from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Any, Literal

from finetune.config.facts import Count


@dataclass(frozen=True)
class ScoreFacts:
    """A score, and the help of its two options."""

    place: str
    """The scorer as "module:Class", imported when it is used, and called with name and model."""
    limit: Literal["min", "max"]
    model_help: str
    limit_help: str
    of_captions: bool = False
    """The score is about an image and its caption."""


CLASSIFIER = "datasets_prep.scores.scorers:ClassifierScorer"
LOWER, HIGHER = "Images with a lower score are left out.", "Images with a higher score are left out."

SCORES: Mapping[str, ScoreFacts] = {
    "aesthetic": ScoreFacts(
        CLASSIFIER,
        "min",
        "transformers image classifier or regressor (folder or Hub id) whose score is the aesthetic one.",
        LOWER,
    ),
    "nsfw": ScoreFacts(
        CLASSIFIER,
        "max",
        "transformers image classifier; the score is the probability of its label that names unsafe content.",
        HIGHER,
    ),
    "watermark": ScoreFacts(
        CLASSIFIER,
        "max",
        "transformers image classifier; the score is the probability of its label that names a watermark.",
        HIGHER,
    ),
    "clip": ScoreFacts(
        "datasets_prep.scores.scorers:AgreementScorer",
        "min",
        "CLIP or SigLIP model that scores how well image and caption agree.",
        "Images whose caption agrees less are left out.",
        of_captions=True,
    ),
}


def limit_option(name: str) -> str:
    """Return the option with the limit of a score."""
    return f"{SCORES[name].limit}_{name}"


def score_options() -> Any:
    """Return a dataclass with the options of all scores. The command line finds their help in its docstring."""
    options, lines = [], ["Options of the scores.", "", "Args:"]
    for name, facts in SCORES.items():
        options.append((f"{name}_model", str | None, field(default=None)))
        options.append((limit_option(name), float | None, field(default=None)))
        lines += [f"    {name}_model: {facts.model_help}", f"    {limit_option(name)}: {facts.limit_help}"]
    return make_dataclass("ScoreOptions", options, frozen=True, namespace={"__doc__": "\n".join(lines)})


@dataclass(frozen=True)
class ScoresConfig(score_options()):
    """Learned scores, each off until a model is named. They run on a GPU if torch finds one."""

    batch_size: Count = 16
    """Images at a time; halved where memory does not suffice."""

    def models(self) -> dict[str, str]:
        return {name: model for name in SCORES if (model := vars(self)[f"{name}_model"]) is not None}

    def limit(self, name: str) -> float | None:
        return vars(self)[limit_option(name)]

    def problems(self) -> list[str]:
        return [
            f"scores.{limit_option(name)}: there is no model to give the score. Name one: scores.{name}_model."
            for name in SCORES
            if self.limit(name) is not None and name not in self.models()
        ]
