"""Votes that were given about the checkpoints of runs. Torch-free."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

from finetune.rate.result import Points, PromptCounts, Result, share_interval
from finetune.rate.votes import FILE, read_lines
from finetune.records.image_file import read_image_file
from finetune.report.gallery import by_text, images_in
from finetune.report.run import write_report
from finetune.report.scores import Scored, read_scores
from finetune.run_folder.finished import STATUS_FILE

Key = tuple[str, int]
"""Prompt and seed."""
Compared = tuple[str, str]
"""Names of two checkpoints."""


@dataclass(frozen=True)
class Checkpoint:
    """The images of a checkpoint, as they are shown on a page."""

    name: str
    images: Mapping[Key, Path]

    def num_same_parts(self, target: str, key: Key) -> int:
        """Count the last folders that images share with a target."""
        if key not in self.images:
            return 0
        own, given = self.images[key].absolute().parent.parts, PurePath(target).parts
        return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(reversed(own), reversed(given), strict=False))))


def checkpoints_of(scored: Scored, run: str = "") -> Iterator[Checkpoint]:
    """Yield the base model, scored steps, and the chosen one's strengths. `run` is put before their names."""
    before = f"{run}: " if run else ""
    texts = [text for text, _ in scored.prompts]
    folders = [("base model", scored.base_images), *((before + each.name, each.images) for each in scored.steps)]
    if scored.choice is not None:
        name = before + scored.choice.name
        folders += [(f"{name} at strength {each.value:g}", each.images) for each in scored.choice.strengths]
    for name, folder in folders:
        drawn = images_in(folder) if folder is not None else {}
        yield Checkpoint(name, by_text(drawn, texts))


def votes_about(checkpoints: Sequence[Checkpoint], files: Sequence[Path]) -> list[Result]:
    """Count the votes in files about two of the checkpoints. An image that was drawn again has no vote."""
    found: dict[Compared, Points] = {}
    ranks = {each.name: place for place, each in reversed(list(enumerate(checkpoints)))}
    hash_of = cache(pixels_sha256)  # an image has many votes
    for row in (row for file in files for row in last_votes(file)):
        key = str(row.get("prompt")), int(row["seed"])
        names = [name_of(checkpoints, row[side], key, hash_of) for side in ("left", "right")]
        if None in names or names[0] == names[1]:
            continue
        left, right = (str(name) for name in names)
        preferred = {row["left"]["sha256"]: left, row["right"]["sha256"]: right}.get(row["preferred"])
        first, second = sorted((left, right), key=lambda name: ranks[name])
        share = 0.5 if preferred is None else float(preferred == first)
        found.setdefault((first, second), {})[key] = share
    return [counted(*names, points) for names, points in sorted(found.items(), key=lambda each: ranks[each[0][0]])]


def last_votes(file: Path) -> list[Mapping[str, Any]]:
    """Return a file's last vote about each pair. Those taken back are left out."""
    found: dict[str, Mapping[str, Any]] = {}
    for key, row in read_lines(file)[0]:
        found.pop(key, None)
        if is_vote(row):
            found[key] = row
    return list(found.values())


def is_vote(row: Mapping[str, Any]) -> bool:
    """Recognize a whole vote."""
    sides = row.get("left"), row.get("right")
    if not all(isinstance(side, dict) and {"target", "sha256"} <= side.keys() for side in sides):
        return False
    hashes = [side["sha256"] for side in sides if side]
    is_known = row.get("preferred") in [*hashes, None] and all(isinstance(each, str) for each in hashes)
    return is_known and isinstance(row.get("seed"), int) and "preferred" in row


def name_of(
    checkpoints: Sequence[Checkpoint], side: Mapping[str, Any], key: Key, hash_of: Callable[[Path], str]
) -> str | None:
    """Name the checkpoint of one side of a pair. None where it is not among them, or was drawn again."""
    ranked = [(each.num_same_parts(str(side["target"]), key), each) for each in checkpoints]
    likely = sorted((pair for pair in ranked if pair[0]), key=lambda pair: -pair[0])
    return next((each.name for _, each in likely if hash_of(each.images[key]) == side["sha256"]), None)


def pixels_sha256(path: Path) -> str:
    """Hash the pixels of an image; empty where it cannot be read."""
    try:
        return read_image_file(path).sha256
    except (OSError, ValueError):
        return ""


def counted(first: str, second: str, points: Points) -> Result:
    """Count the votes about two checkpoints."""
    counts: dict[str, list[int]] = {}
    for (prompt, _), share in points.items():
        counts.setdefault(prompt, [0, 0, 0])[[1.0, 0.0, 0.5].index(share)] += 1
    rows = [PromptCounts(prompt, *numbers) for prompt, numbers in sorted(counts.items())]
    return Result(first, second, len(points), rows, share_interval(points))


def own_votes(folder: Path) -> list[str]:
    """Say what people prefer among the checkpoints of one run."""
    file = folder / FILE
    checkpoints = list(checkpoints_of(read_scores(folder))) if file.is_file() else []
    return [" ".join(result.sentences()) for result in votes_about(checkpoints, [file])]


def renew_report(folder: Path) -> Path | None:
    """Write the report of a finished run again with its votes. It is None where it has no finished report."""
    if not (folder / STATUS_FILE).is_file() or not (folder / "report.html").is_file():
        return None
    return write_report(folder, votes=own_votes(folder))
