"""Repeats of images from folder names such as "10_sks star"; torch-free."""

import itertools
import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Literal

from finetune.data.listing import Findings

FolderRepeats = Literal["auto", "on", "off"]
"""Whether the number before a folder's name is the repeats of its images; auto decides by all names together."""

NUMBERED = re.compile(r"(\d{1,3})_\s*(.*[^\W\d_].*)", re.DOTALL)
"""A year, or a number before another number, is not taken for repeats."""
CLASS_FOLDER = re.compile(
    r"reg(?:ulari[sz]ation)?(?:[-_ ]?(?:images?|imgs?|data))?|class(?:[-_ ]?images?)?", re.IGNORECASE
)
"""Where sd-scripts' users have class images."""
TRAINED = frozenset(("train", "training"))
HELD_OUT = frozenset(("val", "valid", "validation", "test", "testing", "eval", "dev"))
GIVE_BOTH = (
    "give both: --data.folders SUBJECT '{folder: CLASS, is_regularisation: true}', or to recipes.dreambooth "
    "--data.folder SUBJECT --prior.folder CLASS"
)


def folder_repeats(
    images: Iterable[str], choice: FolderRepeats, option: str, findings: Findings
) -> Mapping[str, tuple[int, str]]:
    """Map folders of images to repeats and plain name. The number is that of the folder, or of the nearest above it
    that has one. With auto every folder that has images must have one. Where some do not, where the numbers only count
    the folders (1_cat, 2_dog), are zero or begin with one, the names are doubtful: an error until `option` decides."""
    if choice == "off":
        return {}
    folders = list(dict.fromkeys(posixpath.dirname(name) for name in images))
    nearest = {folder: above for folder in folders if (above := _numbered(folder)) is not None}
    if not nearest:
        return {}
    numbers = {above: _parts(above)[0] for above in nearest.values()}
    doubt = _doubt([*numbers.values()], len(nearest) < len(folders))
    if choice == "auto" and doubt:
        for above in numbers:
            findings.error(
                f"folders whose number may be the repeats of their images or a part of the name ({doubt}); set "
                f"--{option} on for repeats, off for names",
                above,
            )
        return {}
    for above, number in numbers.items():
        if int(number) > 0:
            findings.warn(
                f"folders whose number is taken as the repeats of their images; --{option} off takes it as a name",
                f"{posixpath.basename(above)} ({int(number)} times)",
            )
    return {
        folder: (int(numbers[above]), _parts(folder)[1]) for folder, above in nearest.items() if int(numbers[above]) > 0
    }


def note_class_images(images: Iterable[str], advice: str, findings: Findings) -> None:
    """Refuse sd-scripts' folder of class images beside that of the subject. It would be trained as the subject."""
    folders = list(dict.fromkeys(posixpath.dirname(name) for name in images))
    found = {folder: place for folder in folders if (place := _class_folder(folder)) is not None}
    if len(found) == len(folders):
        return
    for place in dict.fromkeys(found.values()):
        findings.error(
            f"folders of class images (regularisation), which would be trained as the subject; {advice}, or move or "
            "rename the folder",
            f"{place}/",
        )


def note_splits(images: Iterable[str], findings: Findings) -> None:
    """Warn of images to be held out beside those to train on."""
    parts = dict.fromkeys(part for name in images for part in posixpath.dirname(name).split("/"))
    if not TRAINED.isdisjoint(map(str.lower, parts)):
        for part in [part for part in parts if part.lower() in HELD_OUT]:
            findings.warn(
                "folders that seem to hold images for validation, which are trained on with the others; move them "
                "away, and let validation.fraction hold images out",
                f"{part}/",
            )


def _class_folder(folder: str) -> str | None:
    """Return the folder called reg above a numbered one, if any."""
    parts = folder.split("/")
    for place, (part, below) in enumerate(itertools.pairwise(parts)):
        if CLASS_FOLDER.fullmatch(part) and NUMBERED.fullmatch(below):
            return "/".join(parts[: place + 1])
    return None


def repeats_in_name(folder: str) -> int:
    """Return a folder's number, or that of the nearest above; else 1."""
    above = _numbered(folder)
    return 1 if above is None else int(_parts(above)[0])


def _numbered(folder: str) -> str | None:
    """Return the nearest numbered folder, itself or above it."""
    while folder:
        if NUMBERED.fullmatch(posixpath.basename(folder)):
            return folder
        folder = posixpath.dirname(folder)
    return None


def _parts(folder: str) -> tuple[str, str]:
    """Return a folder's number, if any, and its plain name."""
    name = posixpath.basename(folder)
    match = NUMBERED.fullmatch(name)
    return ("", name) if match is None else (match[1], match[2].strip())


def _doubt(numbers: list[str], is_mixed: bool) -> str:
    if is_mixed:
        return "other folders with images have none"
    if any(number.startswith("0") for number in numbers):
        return "it begins with a zero"
    values = sorted(map(int, numbers))
    if len(values) > 1 and values == list(range(values[0], values[0] + len(values))) and values[0] <= 1:
        return "the numbers count the folders"
    return ""
