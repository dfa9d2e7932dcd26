"""The interface of captioners, and the instructions for kinds of captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from datasets_prep.config import CaptionsConfig

Kind = Literal["short", "long", "tags"]

PROMPTS: dict[Kind, str] = {
    "short": "Describe this picture in one short sentence. Name what it shows at once, without any introduction.",
    "long": "Describe this picture in one detailed paragraph: what it shows, where things are, the light, the colours "
    "and the kind of picture. Begin at once, without any introduction, and do not guess at what cannot be seen.",
    "tags": "List at most 30 tags for this picture, the most important first, in lower case and separated by commas. "
    "Write nothing but the tags.",
}
"""Instructions for models that follow instructions."""
HINT = "{hint}"
"""Placeholder in captions.prompt for the words of the image's name."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a captioner for one image, or its error."""

    text: str
    num_tokens: int
    finish: Literal["stop", "length", "error"]
    """stop: the model ended the caption; length: it was cut off at the limit; error: it failed."""
    detail: str = ""
    """The error in a sentence."""


class Captioner(Protocol):
    """A model that describes images. It is built from the options; `load` loads the model."""

    name: str
    """For messages, e.g. the captioner and the model."""
    batch_size: int
    """Images per call."""

    def identity(self) -> str:
        """Hash what captions depend on besides image, kind and hint. It needs no `load`: with every caption cached no
        model is loaded."""
        ...

    def load(self) -> None:
        """Load the model. Raises ValueError or OSError if that fails."""
        ...

    def caption(self, images: Sequence[Image.Image], kind: Kind, hints: Sequence[str]) -> list[Result]:
        """Caption RGB images in order. Only running out of memory or losing the model raises."""
        ...


def prompt_for(config: CaptionsConfig, kind: Kind, hint: str) -> str:
    """Return the instruction for an image: the option's, else the kind's."""
    return PROMPTS[kind] if config.prompt is None else config.prompt.replace(HINT, hint)


def check_asked(
    config: CaptionsConfig, able: Sequence[Kind], instead: str = "", *, follows_prompt: bool = True
) -> None:
    """Refuse kinds and prompts that the captioner cannot follow, all at once. {hint} in the prompt is refused too,
    because all images get the same text."""
    found = []
    if unable := [kind for kind in config.kinds if kind not in able]:
        can = " and ".join(able)
        found.append(f"captions.kinds: got {', '.join(unable)}, but {config.captioner} writes {can} only. {instead}")
    if config.prompt is not None and not follows_prompt:
        found.append(f"captions.prompt: got {config.prompt!r}, but {config.captioner} follows none. Leave it out.")
    elif HINT in (config.prompt or ""):
        found.append(
            f"captions.prompt: {config.captioner} takes one text for all images, so it cannot contain {HINT}. "
            "Omit it, or use qwen_vl, llava or http."
        )
    if found:
        raise ValueError("\n".join(found))


def model_of(config: CaptionsConfig) -> str:
    """Return captions.model, which every captioner with a model has."""
    assert config.model is not None  # CaptionsConfig has checked it
    return config.model
