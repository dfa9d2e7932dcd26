import hashlib

import pytest
import torch

from finetune.batches.inpaint_masks import WHOLE, Holes, filling_key, hole, latent_hole
from finetune.batches.view import View
from finetune.data.manifest import Record

RECORD = Record("a.png", ("a",), 100, 80, "ab" * 32)
VIEW = View(64, 48, 0.5, 0.5, False)


def test_holes_are_the_same_every_time_and_differ_by_image_and_number() -> None:
    names = [hashlib.sha256(bytes([n])).hexdigest() for n in range(40)]
    drawn = {(name, number): hole(name, number, 64, 48) for name in names for number in range(4)}
    assert all(torch.equal(hole(name, number, 64, 48), found) for (name, number), found in drawn.items())
    assert len({found.numpy().tobytes() for found in drawn.values()}) == len(drawn)
    shares = [float(found.mean()) for found in drawn.values()]
    assert all(found.shape == (1, 48, 64) and set(found.unique().tolist()) <= {0.0, 1.0} for found in drawn.values())
    assert min(shares) > 0.01 and 0.2 < sum(shares) / len(shares) < 0.6


def test_all_is_hidden_in_the_given_share_of_samples() -> None:
    holes = Holes(num_masks=3, whole_share=0.25)
    drawn = [holes.drawn(0, position) for position in range(4000)]
    assert set(drawn) == set(holes.numbers) == {WHOLE, 0, 1, 2}
    assert drawn.count(WHOLE) / 4000 == pytest.approx(0.25, abs=0.03)
    assert drawn.count(1) / 4000 == pytest.approx(0.25, abs=0.03)
    assert Holes(3, 0).numbers == [0, 1, 2] and Holes(3, 1).numbers == [WHOLE]
    assert torch.equal(hole("x", WHOLE, 5, 4), torch.ones(1, 4, 5))


def test_keys_change_with_what_is_hidden_and_images_hidden_as_a_whole_share_one() -> None:
    other = Record("b.png", ("b",), 100, 80, "cd" * 32)
    mirrored = View(64, 48, 0.5, 0.5, True)
    parts = [(RECORD, VIEW, 0), (RECORD, VIEW, 1), (RECORD, mirrored, 0), (other, VIEW, 0)]
    keys = {filling_key(*part, "vae") for part in parts}
    wholes = {filling_key(record, view, WHOLE, "vae") for record in (RECORD, other) for view in (VIEW, mirrored)}
    assert len(keys) == 4 and len(wholes) == 1 and not keys & wholes
    assert filling_key(RECORD, VIEW, 0, "other") not in keys


def test_latents_take_the_nearest_pixel_as_interpolation_does() -> None:
    hidden = hole(RECORD.sha256, 0, 64, 48)
    expected = torch.nn.functional.interpolate(hidden[None], size=(6, 8))
    assert torch.equal(latent_hole(hidden[None], 8), expected)
