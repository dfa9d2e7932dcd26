"""Chooses the images that are held out of training, in groups that share nothing with those that are trained on."""

import hashlib
import posixpath
from collections.abc import Iterable, Sequence

import numpy as np


def groups_of(num: int, links: Iterable[tuple[int, int]], folders: Sequence[str] | None) -> np.ndarray:
    """Returns the group [N] of every image: linked images, and those of one folder, share one.

    Here links do form chains: images that are copies of copies must not be on both sides either.
    """
    group = np.arange(num)

    def root(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = int(group[index])
        return index

    first: dict[str, int] = {}
    by_folder = (
        [] if folders is None else [(first.setdefault(name, index), index) for index, name in enumerate(folders)]
    )
    for left, right in [*by_folder, *links]:
        left, right = sorted((root(left), root(right)))
        group[right] = left
    return np.array([root(index) for index in range(num)], dtype=np.int64)


def folders_of(sources: Sequence[str]) -> list[str] | None:
    """Returns the folder of every name, None where all share one."""
    folders = [posixpath.dirname(source) for source in sources]
    return folders if len(set(folders)) > 1 else None


def held_out(groups: np.ndarray, names: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Returns which images [N] are held out: whole groups in an order drawn from the seed, at most `share` of all.

    A group's place depends on its members' `names` alone, so that few change sides when images are added. At least
    one group is held out and one is not, where there are two and the share is above 0.
    """
    result = np.zeros(len(groups), bool)
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(int(group), []).append(index)
    if share <= 0 or len(members) < 2:
        return result

    def rank(group: int) -> bytes:
        return hashlib.sha256(f"{seed}\0{min(names[index] for index in members[group])}".encode()).digest()

    smallest = min(map(len, members.values()))
    wanted, taken = max(share * len(groups), smallest), 0
    for group in sorted(members, key=rank):
        size = len(members[group])
        if taken + size <= wanted:
            result[members[group]] = True
            taken += size
    return result
