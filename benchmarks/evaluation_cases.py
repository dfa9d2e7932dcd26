"""Checkpoints made of real icons, whose scores are known to rank. Axes: P prompts, S seeds, N images, h w pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.config.evaluate import FeaturesConfig
from finetune.evaluate.drawing import DrawnImages
from finetune.evaluate.features.model import FrozenModel
from finetune.evaluate.grid import Grid, GridPrompt, Kind
from finetune.evaluate.measure import FeatureSet, Yardstick
from finetune.evaluate.references import References
from tools.icons import Icon

NUM_SEEDS, NUM_NEW, NUM_NEUTRAL, NUM_TRAINING = 2, 6, 3, 24
MOST_SHIFT = 3
"""Pixels by which two seeds of one drawing differ."""
Values = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Claim:
    """One score of one checkpoint is less than that of another."""

    text: str
    score: str
    smaller: str
    larger: str
    margin: float = 0.0

    def sides(self, values: Values) -> tuple[float, float] | None:
        """Return both values, with the margin on the smaller. None is for values that could not be computed."""
        smaller, larger = values[self.smaller][self.score], values[self.larger][self.score]
        return None if smaller is None or larger is None else (smaller + self.margin, larger)


CLAIMS = (
    Claim("style: base < half trained", "style", "base", "half"),
    Claim("style: half < well trained", "style", "half", "well"),
    Claim("adherence: permuted prompts < well trained", "adherence", "permuted", "well"),
    Claim("memorisation: well trained < memorised", "memorisation", "well", "memorised"),
    Claim("memorisation: memorised is over false alarms + 0.15", "memorisation", "false alarms", "memorised", 0.15),
    Claim("memorisation: well trained is under them + 0.15", "memorisation", "well", "false alarms + 0.15"),
    Claim("leak: well trained < leaking", "leak", "well", "leaking"),
    Claim("leak: leaking is over 0.15", "leak", "zero", "leaking", 0.15),
    Claim("leak: well trained is under 0.15", "leak", "well", "0.15"),
    Claim("diversity: one image for all seeds < well trained", "diversity", "same", "well"),
    Claim("drift: neutral prompts kept < in the style", "drift", "well", "drifted"),
)


@dataclass(frozen=True)
class Material:
    """The icons of a trial, as images [... h w 3]."""

    grid: Grid
    training: np.ndarray
    """[N h w 3] of one style."""
    styled: np.ndarray
    """[P S h w 3], the prompts' things in that style."""
    others: np.ndarray
    """[P S h w 3], in other styles, one per seed."""
    names: tuple[str, ...]


def made_scores(icons: Sequence[Icon], model: FrozenModel, trial: int) -> Values:
    """Score all made checkpoints of a trial."""
    material = material_of(icons, np.random.default_rng(trial))
    checkpoints = made_checkpoints(material, np.random.default_rng(trial))
    references = References(material.training, material.training[:0], material.names)
    features = FeatureSet.from_config(FeaturesConfig(), model)
    described = features.describe_all(material.grid, drawn(checkpoints["base"]))
    yardstick = Yardstick.measured(material.grid, features, model, references, described)
    found: Values = {}
    level = 0.0
    for name, pixels in checkpoints.items():
        images = drawn(pixels)
        scores = yardstick.scores(images, features.describe_all(material.grid, images))
        found[name] = {key: score.value for key, score in scores.items()}
        level = scores["memorisation"].detail.get("false_alarms", level)
    constant = {"zero": 0.0, "0.15": 0.15, "false alarms": level, "false alarms + 0.15": level + 0.15}
    return found | {name: dict.fromkeys(found["base"], value) for name, value in constant.items()}


def made_checkpoints(material: Material, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Make the images [P S h w 3] of each checkpoint."""
    styled, base = material.styled, material.others
    neutral = material.grid.of_kinds("neutral")
    well = styled.copy()
    well[neutral] = base[neutral]
    half = well.copy()
    half[:, ::2] = base[:, ::2]
    memorised, leaking, same = well.copy(), well.copy(), well.copy()
    same[:] = well[:, :1]
    for prompt in material.grid.of_kinds("new_content"):
        for seed in range(NUM_SEEDS):
            memorised[prompt, seed] = shifted(material.training[random.integers(len(material.training))], random, 1)
            leaking[prompt, seed] = shifted(material.training[0], random, MOST_SHIFT)
    permuted = well.copy()
    permuted[material.grid.of_kinds("new_content")] = np.roll(well[material.grid.of_kinds("new_content")], 1, axis=0)
    return {
        "base": base,
        "half": half,
        "well": well,
        "memorised": memorised,
        "leaking": leaking,
        "permuted": permuted,
        "same": same,
        "drifted": styled,
    }


def material_of(icons: Sequence[Icon], random: np.random.Generator) -> Material:
    """Choose a style, training images, and things not among them."""
    by_style: dict[str, dict[str, Icon]] = {}
    for icon in icons:
        by_style.setdefault(icon.style, {}).setdefault(icon.concept, icon)
    style, *others = random.permutation(sorted(by_style)).tolist()
    num_prompts = NUM_NEW + NUM_NEUTRAL
    others = sorted(others, key=lambda name: -len(by_style[name].keys() & by_style[style].keys()))[: 4 * NUM_SEEDS]
    others = random.permutation(others)[:NUM_SEEDS].tolist()
    shared = sorted(set.intersection(*(set(by_style[name]) for name in (style, *others))))
    if len(shared) < num_prompts + 4:
        return material_of(icons, random)  # this style has few concepts of others
    prompts = random.permutation(shared)[:num_prompts].tolist()
    words = {word for prompt in prompts for word in prompt.split()}
    trained = [concept for concept in by_style[style] if words.isdisjoint(concept.split())]
    trained = random.permutation(sorted(trained))[:NUM_TRAINING].tolist()
    kinds: tuple[Kind, ...] = ("new_content",) * NUM_NEW + ("neutral",) * NUM_NEUTRAL
    grid = Grid(
        tuple(GridPrompt(prompt, prompt, kind) for prompt, kind in zip(prompts, kinds, strict=True)),
        tuple(range(NUM_SEEDS)),
        has_trigger=True,
        captions=(trained[0],),
    )
    return Material(
        grid,
        np.stack([pixels_of(by_style[style][concept]) for concept in trained]),
        np.stack(
            [
                [shifted(pixels_of(by_style[style][prompt]), random, MOST_SHIFT) for _ in range(NUM_SEEDS)]
                for prompt in prompts
            ]
        ),
        np.stack([[pixels_of(by_style[name][prompt]) for name in others] for prompt in prompts]),
        tuple(trained),
    )


def pixels_of(icon: Icon) -> np.ndarray:
    """Decode an icon to whole numbers [h w 3]."""
    return np.asarray(icon.read())


def shifted(image: np.ndarray, random: np.random.Generator, most: int) -> np.ndarray:
    """Move an image by up to so many pixels."""
    down, right = random.integers(0, 2 * most + 1, 2)
    padded = np.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
    return padded[down : down + image.shape[0], right : right + image.shape[1]]


def drawn(pixels: np.ndarray) -> DrawnImages:
    """Take images as those that a checkpoint drew."""
    return DrawnImages(pixels, np.zeros(pixels.shape[:2], bool))
