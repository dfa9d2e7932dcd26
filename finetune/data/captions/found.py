"""Captions found so far, by image, and files that were not understood."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from finetune.data.captions.reading import CaptionReading
from finetune.data.listing import Findings

DETECTED = "files with the boxes of an object detector, which are not captions"


@dataclass
class FoundCaptions:
    """Captions by image, and the files that they were read from."""

    captions: dict[str, list[str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    puzzling: dict[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
    """Files that seem to hold captions, why they are not understood, and the images they are beside, if any."""
    unusable: dict[str, tuple[str, Sequence[str]]] = field(default_factory=dict)
    """The same for unreadable files, such as those without permission."""


def refuse_puzzling(found: FoundCaptions, images: Collection[str], reading: CaptionReading, findings: Findings) -> None:
    """Note unknown caption files, if an image has no caption."""
    bare = {name for name in images if not found.captions.get(name)} if found.puzzling or found.unusable else set()
    for name, (why, owners) in found.puzzling.items():
        if bare and (not owners or bare.intersection(owners)):
            findings.error(
                f"files that seem to hold captions but are not understood, while images are left without one; name the "
                f"field with --{reading.column_option}, write .txt files, or {reading.ignoring}",
                f"{name} ({why})",
            )
    for name, (why, owners) in found.unusable.items():
        if bare and (not owners or bare.intersection(owners)):
            refuse_unusable(name, why, findings)
        elif owners:
            findings.warn("caption files that cannot be used, of images with another caption", f"{name} ({why})")


def refuse_unusable(name: str, why: str, findings: Findings) -> None:
    """Note an unreadable caption file as an error. The image has no other caption."""
    findings.error(
        "caption files that cannot be used, while images are left without a caption; make them readable, write them "
        "again, or move them away",
        f"{name} ({why})",
    )


def note_other(texts: Sequence[str], owner: str, name: str, found: FoundCaptions, findings: Findings) -> None:
    """Warn of captions in another file than the image's text file."""
    if not set(texts) <= set(found.captions.get(owner, ())):
        findings.warn("files with other captions than the text file beside the image, which counts", name)


def note_second(texts: Sequence[str], owner: str, name: str, found: FoundCaptions, findings: Findings) -> None:
    """Warn of further captions for an image that has some; all count."""
    before = found.captions.get(owner)
    if before and texts and set(texts) != set(before):
        findings.warn("files with further captions for an image that has one; each is a caption to draw from", name)
