"""From the images of a checkpoint to its scores. Axes: P prompts, S seeds, N images, D width, h w pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

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
from finetune.evaluate.prompt_fit import DenoisingLoss, PromptMeasure, prompt_fit
from finetune.evaluate.references import References
from finetune.evaluate.results import Score
from finetune.evaluate.scores import SCORES
from finetune.import_named import import_named

USES = ("style", "content", "layout")


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


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Everything that is the same for all scored checkpoints. That is features of references and of the base model."""

    grid: Grid
    features: FeatureSet
    references: References
    seen: np.ndarray
    """Training images [N h w 3] through the base model's autoencoder, whole numbers up to 255."""
    known: Mapping[str, Embedded]
    """By use: all but the vectors of samples, in whose place are the base model's."""
    base_fit: PromptFit

    @staticmethod
    def measured(
        grid: Grid, features: FeatureSet, model: FrozenModel, references: References, base: DrawnImages
    ) -> "Yardstick":
        """Measure references and the base model's images. References go through the autoencoder, as drawings do."""
        training, held_out = (
            model.through_autoencoder(as_tensor(images)) if len(images) else as_tensor(images)
            for images in (references.training, references.held_out)
        )
        known: dict[str, Embedded] = {}
        for use in USES:
            feature: Feature = vars(features)[use]
            of_base, of_training = by_prompt(feature.encode, base.pixels), feature.encode(training).double().numpy()
            of_held_out = feature.encode(held_out).double().numpy() if len(held_out) else of_training[:0]
            mirrored = feature.encode(training.flip(3)).double().numpy() if use == "layout" else None
            known[use] = Embedded(feature.name, of_base, of_base, of_training, of_held_out, mirrored)
        base_fit = prompt_fit(features.fit, as_tensor(base.pixels), grid)
        return Yardstick(grid, features, references, as_levels(training), known, base_fit)

    def embedded(self, use: str, samples: DrawnImages) -> Embedded:
        """Describe a checkpoint's images by one feature, beside all others."""
        feature: Feature = vars(self.features)[use]
        return replace(self.known[use], samples=by_prompt(feature.encode, samples.pixels))

    def evidence(self, samples: DrawnImages) -> Evidence:
        """Collect what the scores of a checkpoint are computed from."""
        return Evidence(
            self.grid,
            *(self.embedded(use, samples) for use in USES),
            fit=prompt_fit(self.features.fit, as_tensor(samples.pixels), self.grid),
            base_fit=self.base_fit,
            samples=samples.pixels,
            not_finite=samples.not_finite,
            training=self.seen,
            training_names=self.references.names,
        )

    def scores(self, samples: DrawnImages) -> dict[str, Score]:
        """Compute every score of the registry."""
        evidence = self.evidence(samples)
        return {name: import_named(place)(evidence) for name, place in SCORES.items()}


def by_prompt(encode: Callable[[Tensor], Tensor], pixels: np.ndarray) -> np.ndarray:
    """Describe images [P S h w 3] by vectors [P S D], one prompt after the other."""
    return np.stack([encode(as_tensor(of_prompt)).double().numpy() for of_prompt in pixels])


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Convert whole numbers [... h w 3] to [... 3 h w] in [0, 1]."""
    return torch.from_numpy(pixels).movedim(-1, -3).float() / 255
