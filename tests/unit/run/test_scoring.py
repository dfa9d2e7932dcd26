from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from finetune.evaluate.drawing import image_path, read_images, save
from finetune.evaluate.features.pixels import PixelStatistics
from finetune.evaluate.grid import Grid, GridPrompt
from finetune.evaluate.measure import FeatureSet
from finetune.processes.signals import StopRequest
from finetune.run.scoring.images import describe_grid

GRID = Grid((GridPrompt("a cup", "a cup", "user"), GridPrompt("a boat", "a boat", "user")), (0, 1), True)


@dataclass(frozen=True)
class Brightness:
    """Prefer bright images for every text."""

    name: str = "brightness"
    judges_style: bool = False

    def fits(self, image: Tensor, texts: Sequence[str]) -> np.ndarray:
        return np.full(len(texts), float(image.mean()))


def draw(folder: Path) -> None:
    for number, prompt in enumerate(GRID.prompts):
        for seed in GRID.seeds:
            level = np.full((16, 16, 3), (1 + 2 * number + seed) / 5)
            level[0, 0] = np.nan if (number, seed) == (1, 0) else 0
            save(level, image_path(folder, number, seed), {"prompt": prompt.text, "seed": seed})


def test_images_that_were_described_are_not_read_again_for_the_scores(tmp_path: Path) -> None:
    draw(tmp_path)
    statistics = PixelStatistics()
    features = FeatureSet(statistics, statistics, statistics, Brightness())
    whole = read_images(tmp_path, GRID)
    found = describe_grid(StopRequest(), features, GRID, tmp_path)
    assert found is not None and len(found.prompts) == 2
    for path in tmp_path.glob("*.png"):
        path.unlink()
    known = read_images(tmp_path, GRID, found.images)
    assert np.array_equal(known.pixels, whole.pixels) and known.pixels.shape == (2, 2, 16, 16, 3)
    assert known.not_finite.tolist() == whole.not_finite.tolist() == [[False, False], [True, False]]
