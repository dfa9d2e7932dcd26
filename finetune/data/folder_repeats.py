"""Repeats of images from folder names such as "10_sks star"; torch-free."""

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Literal

from finetune.data.listing import Findings

FolderRepeats = Literal["auto", "on", "off"]
"""Whether the number before a folder's name is the repeats of its images; auto decides by all names together."""

NUMBERED = re.compile(r"(\d{1,3})_\s*(.*[^\W\d_].*)", re.DOTALL)
"""A year, or a number before another number, is not taken for repeats."""


def folder_repeats(
    images: Iterable[str], choice: FolderRepeats, option: str, findings: Findings
) -> Mapping[str, tuple[int, str]]:
    """Map numbered folders to repeats and plain name. With auto every folder that has images must be named so. Where
    some are not, where the numbers only count the folders (1_cat, 2_dog), are zero or begin with one, the names are
    doubtful: an error until `option` decides."""
    if choice == "off":
        return {}
    folders = list(dict.fromkeys(posixpath.dirname(name) for name in images))
    matches = {folder: NUMBERED.fullmatch(posixpath.basename(folder)) for folder in folders}
    found = {folder: (match[1], match[2].strip()) for folder, match in matches.items() if match is not None}
    if not found:
        return {}
    doubt = _doubt([number for number, _ in found.values()], len(found) < len(folders))
    if choice == "auto" and doubt:
        for folder in found:
            findings.error(
                f"folders whose number may be the repeats of their images or a part of the name ({doubt}); set "
                f"--{option} on for repeats, off for names",
                folder,
            )
        return {}
    repeats = {folder: (int(number), name) for folder, (number, name) in found.items() if int(number) > 0}
    for folder, (number, _) in repeats.items():
        findings.warn(
            f"folders whose number is taken as the repeats of their images; --{option} off takes it as a name",
            f"{posixpath.basename(folder)} ({number} times)",
        )
    return repeats


def _doubt(numbers: list[str], is_mixed: bool) -> str:
    if is_mixed:
        return "other folders with images have none"
    if any(number.startswith("0") for number in numbers):
        return "it begins with a zero"
    values = sorted(map(int, numbers))
    if len(values) > 1 and values == list(range(values[0], values[0] + len(values))) and values[0] <= 1:
        return "the numbers count the folders"
    return ""
