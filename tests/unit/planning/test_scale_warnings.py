import json
from pathlib import Path

import pytest

from finetune.planning.scale_warnings import scale_warnings

MODEL = Path(__file__).parents[3] / "finetune" / "assets" / "pictograms"


def test_512_pixels_and_545_passes_on_the_shipped_model_are_told() -> None:
    denoiser = json.loads((MODEL / "unet" / "config.json").read_text())
    size, passes = scale_warnings(denoiser, 4, 512, 12, 545.4)
    assert "got 512" in size and "--data.resolution 64" in size
    assert "12 images" in passes and "545 times" in passes


@pytest.mark.parametrize(
    ("sample_size", "resolution", "is_told"),
    [(64, 512, False), (96, 512, False), (128, 768, False), (128, 512, True), (64, 1024, True), (None, 512, False)],
)
def test_usual_sizes_are_not_told_of(sample_size: int | None, resolution: int, is_told: bool) -> None:
    found = list(scale_warnings({"sample_size": sample_size}, 8, resolution, 100, 30.0))
    assert bool(found) is is_told
