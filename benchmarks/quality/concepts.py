"""How well a base model draws concepts and styles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from style_ruler import load_ruler
from style_ruler import ranks as style_ranks

from quality.drawing import decoded, draw, main_colours
from quality.features import colours_and_edges, distances, ranks, shapes, shares
from quality.icons import NUM_CANDIDATES, UNKNOWN, by_concept, held_out_pairs, read_images, training_icons
from tools.icons import Icon

THIN = ("thin", "light", "fine", "precise", "technical line")
"""What names the styles of thin lines."""
ICONS_PER_STYLE = 20
FEATURES = {"shape": shapes, "colours and edges": colours_and_edges}
COLOURED = [
    f"{colour} {thing}" for thing in ("umbrella", "car", "house", "heart") for colour in ("blue", "green", "red")
]
Figures = Iterator[tuple[str, dict[str, float]]]


@dataclass(frozen=True)
class Trial:
    """A model, and how it is measured."""

    pipeline: StableDiffusionPipeline
    icons: list[Icon]
    """Of concepts in training, held-out ones too."""
    every_icon: list[Icon]
    num: int
    """Held-out pairs; half as many captions and concepts."""
    steps: int
    guidance: float

    def draw(self, prompts: Sequence[str]) -> np.ndarray:
        """Draw each prompt with the seed of its place."""
        return draw(self.pipeline, prompts, range(len(prompts)), self.guidance, self.steps)


def autoencoder(trial: Trial) -> Figures:
    """Yield the PSNR of held-out icons by style: mean, thin lines, worst."""
    by_style = dict[str, list[Icon]]()
    for icon in trial.every_icon:
        if icon.is_held_out and len(by_style.setdefault(icon.style, [])) < ICONS_PER_STYLE:
            by_style[icon.style].append(icon)
    found = dict[str, float]()
    for style, icons in by_style.items():
        images = read_images(icons)
        found[style] = float(-10 * np.log10(np.square(decoded(trial.pipeline, images) - images).mean()))
    ordered = sorted(found, key=lambda style: found[style])
    yield "vae psnr, mean of styles", {"db": float(np.mean(list(found.values())))}
    yield "vae psnr, worst of styles", {style: found[style] for style in ordered[:5]}
    yield "vae psnr, thin lines", {style: found[style] for style in ordered if style.startswith(THIN)}


def pairs(trial: Trial) -> Figures:
    """Yield how held-out pairs of concept and style are drawn."""
    chosen = held_out_pairs(trial.icons, trial.num)
    drawn, true = trial.draw([pair.caption for pair in chosen]), read_images([pair.icon for pair in chosen])
    elsewhere = read_images([pair.elsewhere for pair in chosen])
    for name, feature in FEATURES.items():
        others = np.stack([feature(read_images(pair.others)) for pair in chosen])
        candidates = np.concatenate([feature(true)[:, None], others], axis=1)
        for label, images in (("drawn", drawn), ("another set's icon", elsewhere)):
            far = np.linalg.norm(candidates - feature(images)[:, None], axis=2)
            yield f"pairs, concept by {name}, {label}", shares((far < far[:, :1]).sum(1)) | {"num": len(chosen)}
    ruler = load_ruler()
    styles = torch.tensor([ruler.styles.index(pair.icon.style) for pair in chosen])
    for label, images in (("drawn", drawn), ("true icons", true), ("true, decoded", decoded(trial.pipeline, true))):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() * 255
        yield f"pairs, style, {label}", shares(style_ranks(ruler, pixels, styles).numpy())


def captions(trial: Trial) -> Figures:
    """Yield how often a training caption's own icon is the nearest."""
    chosen = training_icons(trial.icons, trial.num // 2)
    drawn, true = trial.draw([f"{icon.concept}, {icon.style}" for icon in chosen]), read_images(chosen)
    for name, feature in FEATURES.items():
        yield f"captions by {name}, of {len(chosen)}", shares(ranks(feature(drawn), feature(true)))


def unknown_words(trial: Trial) -> Figures:
    """Yield how a concept is drawn alone, and beside words never seen.

    It is the nearest of 50 where one of its icons, in any style, is nearer than all of the others'.
    """
    chosen = training_icons(trial.icons, trial.num // 2)
    groups = by_concept(trial.icons)
    references = {icon.concept: shapes(read_images(groups[icon.concept])) for icon in chosen}
    sets = {icon.concept: np.array([other.set for other in groups[icon.concept]]) for icon in chosen}
    phrases = [UNKNOWN[place % len(UNKNOWN)] for place in range(len(chosen))]

    def ranked(images: np.ndarray, *, leave_set_out: bool = False) -> dict[str, float]:
        found, dice = [], np.random.default_rng(0)
        for place, (icon, one) in enumerate(zip(chosen, shapes(images), strict=True)):
            own = references[icon.concept]
            own = own[sets[icon.concept] != icon.set] if leave_set_out else own
            strangers = dice.permutation(np.delete(np.arange(len(chosen)), place))[: NUM_CANDIDATES - 1]
            nearest = [distances(one[None], references[chosen[number].concept]).min() for number in strangers]
            found.append(sum(far < distances(one[None], own).min() for far in nearest))
        return shares(np.array(found))

    yield "concept, another set's icon", ranked(read_images(chosen), leave_set_out=True)
    for label, prompts in (
        ("concept alone", [icon.concept for icon in chosen]),
        ("concept with style", [f"{icon.concept}, {icon.style}" for icon in chosen]),
    ):
        plain = ranked(trial.draw(prompts))
        beside = ranked(trial.draw([f"{text}, {phrase}" for text, phrase in zip(prompts, phrases, strict=True)]))
        yield label, plain
        kept = {"kept": beside["top_1"] / max(plain["top_1"], 1e-9)}
        yield f"{label}, unknown words", beside | kept


def colours(trial: Trial) -> Figures:
    """Yield how many drawings have the colour that the prompt names."""
    yield f"colour asked for, of {len(COLOURED)}", {"share": colours_right(COLOURED, trial.draw(COLOURED))}


def colours_right(prompts: Sequence[str], drawn: np.ndarray) -> float:
    """Return the share of drawings in the colour that begins their prompt."""
    named = main_colours(drawn)
    return float(np.mean([text.split()[0] == colour for text, colour in zip(prompts, named, strict=True)]))
