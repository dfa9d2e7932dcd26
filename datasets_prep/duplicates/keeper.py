"""Which image of a group of near duplicates to keep.

Criteria in order: most pixels within the border, not counting enlargements, which have no detail that smaller images
lack; narrowest border; colour; a JPEG quality that shows no blocks; a caption of its own. The rest is ordered: in a
group of more than two, those most like all others come first (an edit differs less from its original than from another
edit), otherwise the usual rank decides. The first is kept that was not made of another by blurring, sharpening,
darkening corners or drawing over it (`pairs`), or by a change of tones (`curves`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets_prep.duplicates.consensus import Consensus
from datasets_prep.duplicates.facts import WHOLE, Details, Facts, common_parts, common_sides
from datasets_prep.duplicates.frames import Box, show_the_same
from datasets_prep.duplicates.made import Made
from datasets_prep.records import Duplicate
from finetune.similarity.appearance import can_verify

SAME_SIZE = 1.1
"""Ratio of sides up to which two images are as large."""
LEAST_DETAIL = (1.1, 1.2, 1.3, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), (0.86, 0.765, 0.69, 0.57, 0.46, 0.335, 0.28, 0.22, 0.17)
"""Ratios of sides, and the share of the detail of a smaller image, at its own finest scale, that a larger one has at
its finest scale unless it was enlarged."""
NO_DETAIL = 0.7
"""Levels, root mean square, up to which what a smaller image has may come from compression and rounding."""
LARGEST_CROP = 1.7
"""Ratio of sides up to which a smaller image may be a crop that is found again."""
GREYER = 3.0
"""Ratio of how far channels differ from which an image is greyer than another; stronger colours do not count."""
POOR_QUALITY = 60.0
"""Of JPEG, below which blocks show."""
FAIR_QUALITY = 75.0
"""Of JPEG, below which much is lost."""
MOST_COMPARED = 8
"""Images of a group that are compared in pairs."""
MOST_INNER = 3
"""Images of a group that are looked for within the others."""
MOST_HEARD = 16
"""Images of a group of which is measured what they tell about each other."""
TOLD, TOLD_CLEARLY = 0.98, 0.95
"""Share of what one image tells about the others from which another tells as much, and up to which it is not what that
was made of."""


@dataclass(frozen=True)
class Member:
    """One image of a group."""

    number: int
    rank: int
    """Its place in the order of all images; the first is kept where nothing else decides."""
    quality: float
    """Of JPEG, 0 to 100; 100 where nothing is lost."""
    has_caption: bool


def best_member(members: Sequence[Member], details: Details) -> Member:
    """Choose the member to keep."""
    central = most_alike(members, details)
    find_frames(central, details)
    consensus = Consensus((), np.empty((0, 0, 0)))
    if len(members) > 2 and can_verify():
        consensus = details.consensus(central[:MOST_HEARD])
    facts = {member.number: details.facts(member.number) for member in members}
    members = [replace(each, quality=min(each.quality, facts[each.number].quality)) for each in members]
    parts = common_parts(facts)
    sides = common_sides(facts, parts)
    enlarged = enlargements(sides, facts, parts, details, consensus)
    left = [member for member in members if member.number not in enlarged]
    largest = max(sides[member.number] for member in left)
    left = [member for member in left if sides[member.number] * SAME_SIZE >= largest]
    # A drawing cut out of its paper has less around it than the others, but no less of a border that was added.
    narrow = smallest(left, lambda member: max(1.0, facts[member.number].side(WHOLE) / sides[member.number]), 1.025)
    left = [each for each in left if each in narrow or all(tells_more(consensus, each, other) for other in narrow)]
    left = smallest(left, lambda member: -facts[member.number].colour, GREYER)
    left = [member for member in left if member.quality >= POOR_QUALITY] or left
    left = [member for member in left if member.has_caption] or left
    left.sort(key=lambda member: member.rank)
    if len(members) > 2:
        others = np.stack([each.thumbnails[parts[number]] for number, each in facts.items()])
        left.sort(key=lambda member: unlikeness(facts[member.number].thumbnails[parts[member.number]], others))
        if len(members) > MOST_HEARD and can_verify():  # those that are compared in pairs must be heard too
            compared = [member.number for member in left[:MOST_COMPARED]]
            consensus = details.consensus(list(dict.fromkeys([*compared, *central]))[:MOST_HEARD])
        left = sorted(
            left, key=lambda member: any(consensus.share(member.number, other.number) < TOLD for other in left)
        )
    return original(left, facts, parts, details, consensus)


def most_alike(members: Sequence[Member], details: Details) -> list[int]:
    """Order members by how much they are like all others. Those that may be in a frame come last."""
    shown = np.stack([details.facts(member.number).thumbnails[WHOLE] for member in members])
    order = sorted(
        range(len(members)),
        key=lambda place: (details.may_be_framed(members[place].number), unlikeness(shown[place], shown)),
    )
    return [members[place].number for place in order]


def find_frames(central: Sequence[int], details: Details) -> None:
    """Find images that frame another of the group, such as screenshots. Where no edges show, `MOST_INNER` others are
    looked for and all but one have to be found: most images of a group show what belongs to it."""
    if not can_verify():
        return
    for number in filter(details.may_be_framed, central):
        others = [each for each in central if each != number][:MOST_INNER]
        found = (details.frame(number, other) for other in others)
        unclear: list[Box] = []
        for box, is_clear in (each for each in found if each is not None):
            if is_clear:
                details.take_inside(number, box)
                break
            unclear.append(box)
        else:
            if MOST_INNER == len(others) <= len(unclear) + 1:
                details.take_inside(number, unclear[0])


def tells_more(consensus: Consensus, one: Member, other: Member) -> bool:
    """Tell if one tells clearly more about the others than another."""
    return consensus.share(other.number, one.number) < TOLD_CLEARLY


def smallest(members: Sequence[Member], figure: Callable[[Member], float], slack: float) -> list[Member]:
    """Members with the smallest figures, up to a factor."""
    figures = [figure(member) for member in members]
    least = min(figures)
    most = least * slack if least > 0 else least / slack
    return [member for member, each in zip(members, figures, strict=True) if each <= most]


def enlargements(
    sides: Mapping[int, float],
    facts: Mapping[int, Facts],
    parts: Mapping[int, int],
    details: Details,
    consensus: Consensus,
) -> set[int]:
    """Find enlarged images: larger than others but without more detail. At least a third of the smaller images must
    have the detail that it lacks: some may have lost theirs, as blurred ones have, or had none, as drawings of even
    areas."""
    pairs = [(one, other, sides[one] / sides[other]) for one in sides for other in sides]
    pairs = [pair for pair in pairs if pair[2] > SAME_SIZE]
    asked = sorted({(number, factor) for one, other, factor in pairs for number in (one, other)})
    detail = {each: details.detail(each[0], parts[each[0]], each[1]) for each in asked}  # none is opened twice
    lacks: dict[int, list[bool]] = {}
    for one, other, factor in pairs:
        if consensus.share(other, one) < TOLD_CLEARLY:  # none was made of one that tells less
            continue
        least = float(np.interp(factor, *LEAST_DETAIL)) * detail[other, factor]
        least *= contrast(*(facts[number].thumbnails[parts[number]] for number in (one, other)))
        is_less = detail[other, factor] > NO_DETAIL and detail[one, factor] < least
        if is_less and factor < LARGEST_CROP and can_verify():
            shared = details.shared_detail(one, other, factor)  # a crop may be the sharpest part
            is_less = shared is None or shared < least
        lacks.setdefault(one, []).append(is_less)
    return {number for number, each in lacks.items() if 3 * sum(each) >= len(each)}


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    """Contrast of the first over the second; 1 for different content."""
    return float(first.std() / second.std()) if show_the_same(first, second) else 1.0


def unlikeness(thumbnail: np.ndarray, others: np.ndarray) -> float:
    """Sum of a thumbnail's differences from all."""
    return float(np.abs(others - thumbnail).mean(1).sum())


def original(
    ranked: Sequence[Member],
    facts: Mapping[int, Facts],
    parts: Mapping[int, int],
    details: Details,
    consensus: Consensus,
) -> Member:
    """Return the first member that was not made of another."""
    compared = [(member, parts[member.number]) for member in ranked[:MOST_COMPARED]]
    sizes = {member.number: facts[member.number].sizes[part] for member, part in compared}

    def is_made_of(member: Member, part: int, other: Member, other_part: int) -> bool:
        if member is other or sizes[member.number] != sizes[other.number]:
            return False
        if other.quality < min(FAIR_QUALITY, member.quality - 10):  # what compression lost seems added to the other
            return False
        with_added = not tells_more(consensus, member, other)  # what another lost seems added
        with_scaled = len(facts) == 2  # the tones of more show which are usual
        pair = (member.number, part), (other.number, other_part)
        return details.made_of(*pair, with_added, with_scaled) is Made.FIRST

    for each in compared:
        if not any(is_made_of(*each, *other) for other in compared):
            return each[0]
    return ranked[0]


def with_best_keepers(
    near: Mapping[int, Duplicate],
    member: Callable[[int], Member],
    is_fixed: Callable[[int], bool],
    details: Details,
    name: Callable[[int], str],
) -> dict[int, Duplicate]:
    """Point near duplicates to the best member of their group. Groups with a fixed image are not changed."""
    groups: dict[int, list[int]] = {}
    for number, copy in near.items():
        groups.setdefault(copy.keeper, []).append(number)
    found = dict(near)
    for keeper, copies in groups.items():
        if any(is_fixed(number) for number in (keeper, *copies)):
            continue
        best = best_member([member(number) for number in (keeper, *copies)], details).number
        if best == keeper:
            continue
        found[keeper] = replace(found.pop(best), keeper=best)
        for number in copies:
            if number != best:
                detail = f"{near[number].detail}, compared with {name(keeper)}"
                found[number] = replace(near[number], keeper=best, detail=detail)
    return found
