"""Images held out of training, in groups unrelated to the rest."""

import hashlib
import posixpath
from collections.abc import Iterable, Sequence

import numpy as np


def groups_of(num: int, links: Iterable[tuple[int, int]], folders: Sequence[str] | None) -> np.ndarray:
    """Number the groups [N] of linked images and of folders. Links form chains here, which no split may part."""
    group = np.arange(num)

    def root(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = int(group[index])
        return index

    first: dict[str, int] = {}
    by_folder = [(first.setdefault(name, index), index) for index, name in enumerate(folders or ())]
    for left, right in [*by_folder, *links]:
        left, right = sorted((root(left), root(right)))
        group[right] = left
    return np.array([root(index) for index in range(num)], dtype=np.int64)


def folders_of(sources: Sequence[str]) -> list[str] | None:
    """Return the folder of every name; None where all share one."""
    folders = [posixpath.dirname(source) for source in sources]
    return folders if len(set(folders)) > 1 else None


def held_out(groups: np.ndarray, names: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Choose whole groups to hold out, as a mask [N] of images. The seed decides the order; at most `share` of all
    images are held out. A group's place depends only on its members' `names`, so few images change sides when others
    are added. At least one group is held out and one is not, where there are two and the share is above 0."""
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
