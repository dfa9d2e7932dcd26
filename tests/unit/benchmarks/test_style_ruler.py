"""The committed classifier of icons' styles."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from style_ruler import load_ruler, ranks, read_images

from tools.icons import read_icons

ICONS = Path(__file__).parents[4] / "shared" / "data" / "icons"


def test_features_have_length_one_and_do_not_depend_on_the_batch() -> None:
    ruler, images = load_ruler(), torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = ruler.features(images)
        assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-5)
        assert torch.allclose(ruler.features(images[:1]), found[:1], atol=1e-4)
        assert ruler(images).shape == (3, len(ruler.styles)) == (3, 54)


@pytest.mark.slow
@pytest.mark.skipif(not ICONS.exists(), reason="needs ../shared/data/icons, of which it judges the held-out ones")
def test_it_knows_the_styles_of_icons_that_it_never_saw() -> None:
    ruler = load_ruler()
    held_out = read_images([icon for icon in read_icons(ICONS) if icon.is_held_out], ruler.styles)
    found = ranks(ruler, held_out.pixels, held_out.styles)
    assert (found < 1).float().mean() > 0.7 and (found < 5).float().mean() > 0.95  # 0.756 and 0.969
