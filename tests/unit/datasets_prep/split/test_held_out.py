import numpy as np
import pytest

from datasets_prep.split.held_out import folders_of, groups_of, held_out

NAMES = [f"{number:03d}.png" for number in range(100)]


def test_links_form_chains_and_folders_join() -> None:
    groups = groups_of(6, [(0, 1), (1, 2)], None)
    assert groups.tolist() == [0, 0, 0, 3, 4, 5]
    groups = groups_of(6, [(2, 3)], ["a", "a", "b", "c", "c", "d"])
    assert groups.tolist() == [0, 0, 2, 2, 2, 5]


def test_one_folder_is_not_a_group() -> None:
    assert folders_of(["a/1.png", "a/2.png"]) is None
    assert folders_of(["a/1.png", "b/2.png"]) == ["a", "b"]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_about_the_share_is_held_out_and_groups_stay_whole(share: float) -> None:
    rng = np.random.default_rng(0)
    groups = groups_of(100, [tuple(rng.integers(0, 100, 2)) for _ in range(40)], None)
    chosen = held_out(groups, NAMES, share, seed=0)
    assert abs(chosen.mean() - share) <= 0.03
    for group in set(groups.tolist()):
        assert len(set(chosen[groups == group].tolist())) == 1
    assert not np.array_equal(chosen, held_out(groups, NAMES, share, seed=1))


def test_there_is_a_side_each_as_long_as_there_are_two_groups() -> None:
    assert held_out(np.array([0, 1]), NAMES[:2], 0.01, 0).sum() == 1
    assert held_out(np.zeros(9, int), NAMES[:9], 0.3, 0).sum() == 0
    assert held_out(groups_of(100, [], None), NAMES, 0.0, 0).sum() == 0


def test_few_change_sides_when_images_are_added() -> None:
    more = [f"new {number}" for number in range(20)]
    before = held_out(groups_of(100, [], None), NAMES, 0.2, 0)
    after = held_out(groups_of(120, [], None), [*NAMES, *more], 0.2, 0)[:100]
    assert (before != after).sum() <= 4
