"""The images of a checkpoint by prompt and seed. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.records.folders import SCORED_NAME, subfolders
from finetune.records.image_file import own_text, read_settings
from finetune.records.scored import ScoredFolder

MOST_ABOVE = 3
"""Folders above the images in which grid.json is searched."""


@dataclass(frozen=True)
class RatedTarget:
    """One of the two targets."""

    name: str
    """The folder of its images."""
    images: Mapping[tuple[str, int], Path]
    """By prompt and seed."""
    root: Path | None
    """The folder of grid.json, where votes are kept."""


def find_target(given: Path) -> RatedTarget:
    """Find the images that a path names. It is a folder of images, or a scored one, whose best checkpoint is taken."""
    if not given.is_dir():
        raise FileNotFoundError(f"targets: there is no folder {given}. Give a scored run, or a folder of its images.")
    folder = given if has_scored_images(given) else images_of(given)
    above = [folder, *folder.absolute().parents][: MOST_ABOVE + 1]
    root = next((each for each in above if (each / "grid.json").is_file()), None)
    prompts = ScoredFolder.read(root).prompts if root else ()
    images: dict[tuple[str, int], Path] = {}
    for path in sorted(folder.glob("prompt*_seed*.png")):
        if match := SCORED_NAME.fullmatch(path.name):
            number = int(match[1])
            prompt = prompts[number] if number < len(prompts) else own_prompt(path)
            images[prompt, int(match[2])] = path
    return RatedTarget(str(folder), images, root)


def has_scored_images(folder: Path) -> bool:
    """Check whether a folder itself contains images of a grid."""
    return any(SCORED_NAME.fullmatch(path.name) for path in folder.glob("prompt*_seed*.png"))


def images_of(folder: Path) -> Path:
    """Find the images of a scored folder's best checkpoint. Of one checkpoint no best one is needed."""
    scored = ScoredFolder.read(folder)
    found = [folder / str(row["images"]) for row in scored.rows if isinstance(row.get("images"), str)]
    found = [each for each in found if each.resolve().is_relative_to(folder.resolve()) and has_scored_images(each)]
    best = [row for row in scored.rows if row.get("target") == scored.best.get("target")]
    if len(best) == 1 and folder / str(best[0].get("images")) in found:
        return folder / str(best[0]["images"])
    if len(found) == 1:
        return found[0]
    places = [*subfolders(folder / "images"), *subfolders(folder / "scored")]
    listed = ", ".join(str(each) for each in places[:6] if has_scored_images(each))
    more = f" Name one of its folders: {listed}." if listed else " Score it first: finetune evaluate."
    what = "has no best checkpoint (best.json)" if listed else "has no images of a grid"
    raise ValueError(f"targets: {folder} {what}.{more}")


def own_prompt(path: Path) -> str:
    """Read the prompt that is written into an image."""
    return str(read_settings(own_text(path.read_bytes())).get("prompt", path.name.partition("_")[0]))
