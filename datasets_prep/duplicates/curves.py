"""The original of two images with changed tones.

Where nothing was lost in storing, the levels of an edit follow from those of its original, and those that it merged do
not lead back. Else the luma of each is predicted from the other, as a sum of curves of its channels. An edit differs
from its prediction by what storing it lost, about as much at all levels. The original differs more from its own: edits
merge tones and clip them. And the steps to which JPEG rounded the original show in its edits, but not the reverse.
Axes: H W height and width, N blocks, F frequencies, S steps.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from datasets_prep.duplicates.compression import BLOCK, frequencies_of, middle_box
from datasets_prep.duplicates.made import Made

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
KNOTS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 22, 30, 40, 52, *range(64, 256, 16), 248, 252, 255])
"""Levels between which curves are straight; edits bend them most in the dark."""
HATS = np.stack([np.interp(np.arange(256), KNOTS, each) for each in np.eye(len(KNOTS))], 1).astype(np.float32)
SAMPLED, PRIOR = 5, 2.0
"""Every so many pixels are fitted, and how many say beforehand that nothing changed."""
BIN, LEAST_SHARE = 8, 0.003
"""Levels that are looked at together, and the share of pixels with them that is enough."""
FREQUENCIES = np.array([(down, across) for down in range(6) for across in range(6) if 0 < down + across < 6])
STEPS = np.arange(2, 41)
FEWEST_LEVELS, CROWDED, TIED = 40, 0.3, 0.02
"""As in `compression`, for finer steps: these are compared, not measured."""
LEAST_CHANGE, MOST_LEFT = 3.0, 0.25
"""Levels, root mean square, by which tones differ at least, and the share of it that curves leave at most."""
CLEAR = 0.4
"""Difference of the traces from which they decide: of 276 edits of two photographs 176 rightly and one wrongly."""
FEWEST_TONES, MOST_PIXELS = 32, 0.95
"""Levels of most pixels that images have at least; what compression adds to drawings of few looks like merged tones."""
FOLLOWS, LEADS_BACK = 0.98, 0.95
"""Shares of pixels whose levels follow from those of the other image: of an edit at least, of its original at most."""


@dataclass(frozen=True)
class Prediction:
    """How well an image follows from another."""

    error: float
    """Root mean square, in levels."""
    worst: float
    """Mean error at the levels where it is largest."""
    crowding: float
    """How near the predicted frequencies are to the steps of the image: 1 at these, 0 anywhere."""
    hits: float
    """Share of the predicted frequencies that round to the step that the image has."""

    @property
    def errors(self) -> tuple[float, float]:
        return self.error, self.worst


def tone_figures(first: Image.Image, second: Image.Image) -> np.ndarray:
    """Measure two RGB images of the same size for `changed_tones`. The values are how far apart they are, the share of
    pixels of which each follows from the other, then the predictions. Drawings of few tones have zeros."""
    one, other = (np.asarray(each.crop(middle_box(each.size))) for each in (first, second))
    if min(one.shape[:2]) < BLOCK or min(num_tones(one), num_tones(other)) < FEWEST_TONES:
        return np.zeros(11)
    apart = float(np.sqrt(np.mean((one @ LUMA - other @ LUMA) ** 2)))
    found = [predicted(one, other), predicted(other, one)]
    follow = followers(one, other), followers(other, one)
    return np.array(
        [apart, *follow, *(each for way in found for each in (way.error, way.worst, way.crowding, way.hits))]
    )


def changed_tones(figures: np.ndarray, with_scaled: bool = True) -> Made:
    """Decide by `tone_figures` which image has changed tones. Unknown where more than tones differs. A contrast that
    was raised without clipping looks like one that was lowered; without `with_scaled` neither counts."""
    apart, second, first = figures[0], Prediction(*figures[3:7]), Prediction(*figures[7:])
    if apart < LEAST_CHANGE or min(first.error, second.error) > MOST_LEFT * apart:
        return Made.UNKNOWN
    if figures[1:3].max() >= FOLLOWS and figures[1:3].min() <= LEADS_BACK:
        return Made.SECOND if figures[1] > figures[2] else Made.FIRST
    error, worst = ((each + 0.05) / (other + 0.05) for each, other in zip(first.errors, second.errors, strict=True))
    less = np.log(worst * error if with_scaled else worst / error)
    clear = less + first.crowding - second.crowding + second.hits - first.hits
    return Made.UNKNOWN if abs(clear) < CLEAR else Made.SECOND if clear > 0 else Made.FIRST


def num_tones(image: np.ndarray) -> int:
    """Count the commonest levels that most pixels [H W 3] have."""
    counts = np.sort(np.bincount((image @ LUMA).astype(np.int64).ravel()))[::-1]
    return int(np.searchsorted(np.cumsum(counts), MOST_PIXELS * counts.sum())) + 1


def followers(source: np.ndarray, target: np.ndarray) -> float:
    """Return the share of the target's levels [H W 3] that follow. They are the commonest for the source's level."""
    shares = []
    for channel in range(3):
        pairs = source[..., channel].ravel().astype(np.int64) * 256 + target[..., channel].ravel()
        shares.append(np.bincount(pairs, minlength=256**2).reshape(256, 256).max(1).sum() / len(pairs))
    return float(min(shares))


def predicted(source: np.ndarray, target: np.ndarray) -> Prediction:
    """Predict the luma of the target [H W 3] from the source."""
    luma = target @ LUMA
    prediction = fitted(source, luma)
    errors = np.abs(luma - prediction)
    bins = np.clip(prediction, 0, 255).astype(np.int64).ravel() // BIN
    counts = np.bincount(bins)
    means = np.bincount(bins, errors.ravel()) / np.maximum(counts, 1)
    worst = float(means[counts > LEAST_SHARE * errors.size].max())
    levels, expected = (frequencies_of(each, FREQUENCIES) for each in (luma, prediction))
    steps = steps_of(levels)
    counted = (np.abs(expected) > steps / 2) & (steps > 0)
    places, num = expected / np.maximum(steps, 1), max(1, int(counted.sum()))
    crowding = float(np.cos(2 * np.pi * places)[counted].sum()) / num
    hits = float((places.round() == (levels / np.maximum(steps, 1)).round())[counted].sum()) / num
    return Prediction(float(np.sqrt(np.mean(errors**2))), worst, crowding, hits)


def fitted(source: np.ndarray, luma: np.ndarray) -> np.ndarray:
    """Fit luma [H W] by a curve of each channel of the source [H W 3]."""
    sampled = source.reshape(-1, 3)[::SAMPLED]
    terms = np.concatenate([HATS[sampled[:, channel]] for channel in range(3)], 1)
    same = np.concatenate([weight * KNOTS for weight in LUMA])
    weights = (terms.T @ terms).astype(np.float64) + PRIOR * np.eye(len(same))
    ends = np.linalg.solve(weights, terms.T @ luma.ravel()[::SAMPLED] + PRIOR * same).reshape(3, -1)
    curves = (HATS @ ends.T).astype(np.float32)
    return curves[source[..., 0], 0] + curves[source[..., 1], 1] + curves[source[..., 2], 2]


def steps_of(levels: np.ndarray) -> np.ndarray:
    """Find the step of which each frequency [N F] has multiples. It is 0 where there is none."""
    places = np.abs(levels)[:, :, None] / STEPS  # [N F S]
    counted = places > 0.75  # else multiples of the step fit as well
    num = counted.sum(0)
    crowding = np.where(num < FEWEST_LEVELS, -1, (np.cos(2 * np.pi * places) * counted).sum(0) / np.maximum(num, 1))
    best = crowding.max(1, keepdims=True)
    return np.where((crowding >= best - TIED) & (crowding >= CROWDED), STEPS, 0).max(1)
