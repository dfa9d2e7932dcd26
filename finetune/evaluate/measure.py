"""From the images of a checkpoint to its scores. Axes: P prompts, S seeds, N images, D width, h w pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.config.evaluate import EMBEDDED, FeaturesConfig
from finetune.evaluate.drawing import DrawnImages
from finetune.evaluate.evidence import Embedded, Evidence, PromptFit
from finetune.evaluate.features.base import Feature, as_levels, joined
from finetune.evaluate.features.model import DenoiserContent, DenoiserStyle, FrozenModel, Latents
from finetune.evaluate.features.pixels import PixelStatistics
from finetune.evaluate.features.pretrained import VisionFeature, model_files, prompt_measure
from finetune.evaluate.grid import Grid
from finetune.evaluate.prompt_fit import DenoisingLoss, PromptMeasure, fits_of_prompt
from finetune.evaluate.references import References
from finetune.evaluate.results import Score, rounded
from finetune.evaluate.scores import SCORES
from finetune.import_named import import_named

USES = ("style", "content", "layout")
Described = Mapping[str, np.ndarray]
"""One prompt's images by each use [S D], and their fit to texts."""


@dataclass(frozen=True, eq=False)
class Joined:
    """Several features as one, each with the same weight."""

    parts: tuple[Feature, ...]

    @property
    def name(self) -> str:
        return " and ".join(part.name for part in self.parts)

    def encode(self, images: Tensor) -> Tensor:
        return joined([part.encode(images) for part in self.parts])


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """The features of an evaluation by their use."""

    style: Feature
    content: Feature
    layout: Feature
    fit: PromptMeasure

    @staticmethod
    def from_config(config: FeaturesConfig, model: FrozenModel) -> "FeatureSet":
        """Make the features that the options name. Embedded ones need no weights but the base model's."""
        style, content, fit = Joined((PixelStatistics(), DenoiserStyle(model))), DenoiserContent(model), None
        others = {
            name: VisionFeature.loaded(model_files(f"features.{name}", given), model.device)
            for name, given in (("style", config.style), ("content", config.content))
            if given != EMBEDDED
        }
        if config.adherence != EMBEDDED:
            fit = prompt_measure(model_files("features.adherence", config.adherence), model.device)
        return FeatureSet(
            others.get("style", style), others.get("content", content), Latents(model), fit or DenoisingLoss(model)
        )

    @property
    def names(self) -> dict[str, str]:
        """The name of each feature by its use."""
        return {name: vars(self)[name].name for name in ("style", "content", "layout", "fit")}

    def describe(self, grid: Grid, number: int, pixels: np.ndarray) -> Described:
        """Describe a prompt's images [S h w 3]. Other prompts have no influence, so processes can share the work."""
        images = as_tensor(pixels)
        vectors = {use: vars(self)[use].encode(images).double().numpy() for use in USES}
        return vectors | fits_of_prompt(self.fit, images, grid, number)

    def describe_all(self, grid: Grid, images: DrawnImages) -> list[Described]:
        """Describe the images of every prompt."""
        return [self.describe(grid, number, pixels) for number, pixels in enumerate(images.pixels)]


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Everything that is the same for all scored checkpoints. That is features of references and of the base model."""

    grid: Grid
    names: Mapping[str, str]
    """The name of each feature by its use."""
    judges_style: bool
    """Of the fit to prompts."""
    training_names: tuple[str, ...]
    seen: np.ndarray
    """Training images [N h w 3] through the base model's autoencoder, whole numbers up to 255."""
    known: Mapping[str, Embedded]
    """By use: all but the vectors of samples, in whose place are the base model's."""
    base_fit: PromptFit

    @staticmethod
    def measured(
        grid: Grid, features: FeatureSet, model: FrozenModel, references: References, base: Sequence[Described]
    ) -> "Yardstick":
        """Measure references, beside the base model's images. References go through the autoencoder, as drawings do."""
        training, held_out = (
            model.through_autoencoder(as_tensor(images)) if len(images) else as_tensor(images)
            for images in (references.training, references.held_out)
        )
        known: dict[str, Embedded] = {}
        for use in USES:
            feature: Feature = vars(features)[use]
            of_base, of_training = stacked(base, use), feature.encode(training).double().numpy()
            of_held_out = feature.encode(held_out).double().numpy() if len(held_out) else of_training[:0]
            mirrored = feature.encode(training.flip(3)).double().numpy() if use == "layout" else None
            known[use] = Embedded(feature.name, of_base, of_base, of_training, of_held_out, mirrored)
        judges_style = features.fit.judges_style
        base_fit = joined_fit(base, features.names["fit"], judges_style=judges_style)
        seen, names = as_levels(training), references.names
        return Yardstick(grid, features.names, judges_style, names, seen, known, base_fit)

    def scores(self, samples: DrawnImages, described: Sequence[Described]) -> dict[str, Score]:
        """Compute every score of the registry. The images are described by prompt."""
        evidence = Evidence(
            self.grid,
            *(replace(self.known[use], samples=stacked(described, use)) for use in USES),
            fit=joined_fit(described, self.names["fit"], judges_style=self.judges_style),
            base_fit=self.base_fit,
            samples=samples.pixels,
            not_finite=samples.not_finite,
            training=self.seen,
            training_names=self.training_names,
        )
        return {name: import_named(place)(evidence) for name, place in SCORES.items()}

    def row(self, facts: Mapping[str, Any], samples: DrawnImages, described: Sequence[Described]) -> dict[str, Any]:
        """Make an object of scores.jsonl. `facts` say what was scored."""
        scores = self.scores(samples, described)
        return rounded(
            {
                **facts,
                "has_trigger": self.grid.has_trigger,
                "num_prompts": len(self.grid.prompts),
                "num_seeds": len(self.grid.seeds),
                "num_training_images": len(self.training_names),
                "features": dict(self.names),
                "scores": {name: score.row() for name, score in scores.items()},
            }
        )


def stacked(described: Sequence[Described], name: str) -> np.ndarray:
    """Stack what is known of each prompt, [P S ...]."""
    return np.stack([each[name] for each in described])


def joined_fit(described: Sequence[Described], name: str, *, judges_style: bool) -> PromptFit:
    """Join the fits of all prompts."""
    own, others, captions = (stacked(described, part) for part in ("own", "others", "captions"))
    return PromptFit(name, own, others, captions, judges_style)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Convert whole numbers [... h w 3] to [... 3 h w] in [0, 1]."""
    return torch.from_numpy(pixels).movedim(-1, -3).float() / 255
