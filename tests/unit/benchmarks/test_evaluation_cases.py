import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from evaluation import area_under_curve
from evaluation_cases import CLAIMS, Claim, Material, made_checkpoints, shifted
from evaluation_runs import choose_images, repeat_image

from finetune.data.manifest import read_manifest
from finetune.evaluate.grid import Grid, GridPrompt, Kind
from tests.tiny.sd import save_pictures

KINDS: tuple[Kind, ...] = ("new_content", "new_content", "neutral")
GRID = Grid(tuple(GridPrompt(kind, kind, kind) for kind in KINDS), (0, 1), True)


def test_made_checkpoints_are_what_their_names_say() -> None:
    training = np.full((4, 8, 8, 3), 9, np.uint8)
    styled, others = (np.full((3, 2, 8, 8, 3), level, np.uint8) for level in (5, 1))
    found = made_checkpoints(Material(GRID, training, styled, others, ("a",)), np.random.default_rng(0))
    levels = {name: pixels[..., 0, 0, 0].tolist() for name, pixels in found.items()}
    assert levels["base"] == [[1, 1]] * 3 and levels["drifted"] == [[5, 5]] * 3
    assert levels["well"] == [[5, 5], [5, 5], [1, 1]] and levels["half"] == [[1, 5], [1, 5], [1, 1]]
    assert levels["memorised"] == levels["leaking"] == [[9, 9], [9, 9], [1, 1]]
    used = {name for claim in CLAIMS for name in (claim.smaller, claim.larger)}
    assert used - set(found) == {"zero", "0.15", "false alarms", "false alarms + 0.15"}


def test_a_claim_compares_two_values_and_leaves_out_absent_ones() -> None:
    claim = Claim("a < b", "style", "a", "b", margin=0.5)
    assert claim.sides({"a": {"style": 0.1}, "b": {"style": 0.7}}) == (0.6, 0.7)
    assert claim.sides({"a": {"style": None}, "b": {"style": 0.7}}) is None


def test_a_shift_keeps_the_size_and_moves_the_drawing() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[4, 4] = 255
    places = {tuple(np.argwhere(shifted(image, np.random.default_rng(n), 2)[..., 0])[0]) for n in range(20)}
    assert len(places) > 5 and all(abs(row - 4) <= 2 and abs(column - 4) <= 2 for row, column in places)


def test_the_area_is_one_where_all_of_the_same_are_nearer() -> None:
    cosines = np.array([[1.0, 0.9, 0.2], [0.9, 1.0, 0.1], [0.2, 0.1, 1.0]])
    same = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    assert area_under_curve(cosines, same, ~same & ~np.eye(3, dtype=bool)) == 1
    assert area_under_curve(-cosines, same, ~same & ~np.eye(3, dtype=bool)) == 0


def test_datasets_of_runs_are_readable(tmp_path: Path) -> None:
    source = save_pictures(tmp_path / "source", count=6, size=64)
    choose_images(source, tmp_path / "few", (0, 5))
    repeat_image(source, tmp_path / "thing", number=2)
    assert [record.file_name for record in read_manifest(str(tmp_path / "few")).records] == ["0000.png", "0005.png"]
    records = read_manifest(str(tmp_path / "thing")).records
    assert len(records) == 24 and len({record.captions for record in records}) == 1
    assert len({record.sha256 for record in records}) > 12
