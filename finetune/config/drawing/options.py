"""A prompt with the options of its images. They are read from texts, YAML and JSON alike; torch-free."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import cast

from finetune.config.drawing.samplers import expected_samplers, find_sampler
from finetune.config.parse.convert import suggestion
from finetune.prompt_syntax import is_path

MOST_PIXELS_A_SIDE = 16384


@dataclass(frozen=True)
class PromptOptions:
    """A prompt and what it says of its images. None leaves an option to the command."""

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    strength: tuple[float, ...] | None = None
    """Of the adapters, in their order; the last one stands for those that follow."""
    image: str | None = None
    mask_image: str | None = None
    image_strength: float | None = None
    """How much of the image is drawn again: diffusers' `strength`."""


@dataclass(frozen=True)
class PromptField:
    """A field of PromptOptions in texts."""

    letters: tuple[str, ...]
    """Its options in sd-scripts' notation, ours first."""
    read: Callable[[object], object]
    """Return its value. Raises ValueError for another."""
    expected: str | Callable[[str], str]


def number(value: object) -> float:
    """Read a finite number."""
    found = math.nan if isinstance(value, bool) else float(cast("str", value))
    if not math.isfinite(found):
        raise ValueError
    return found


def whole_number(value: object, least: int, most: int) -> int:
    """Read a whole number within bounds."""
    if isinstance(value, float | bool):
        raise ValueError
    if not least <= (found := int(cast("str", value))) <= most:
        raise ValueError
    return found


def text(value: object) -> str:
    """Read a text, with spaces for line breaks."""
    if not isinstance(value, str):
        raise ValueError
    return " ".join(value.split())


def words(value: object) -> str:
    """Read a text that is not empty."""
    if not (found := text(value)):
        raise ValueError
    return found


def sampler(value: object) -> str:
    """Read the name of a sampler."""
    if (found := find_sampler(words(value))) is None:
        raise ValueError
    return found.title


def strengths(value: object) -> tuple[float, ...]:
    """Read one number per adapter."""
    if isinstance(value, str):
        value = value.split(",")
    parts = cast("list[object]", value) if isinstance(value, list | tuple) else [value]
    if not parts:
        raise ValueError
    return tuple(number(part) for part in parts)


def share(value: object) -> float:
    """Read a share above 0."""
    if not 0 < (found := number(value)) <= 1:
        raise ValueError
    return found


def side(value: object) -> int:
    """Read the width or height of an image."""
    return whole_number(value, 1, MOST_PIXELS_A_SIDE)


FIELDS: Mapping[str, PromptField] = {
    "negative_prompt": PromptField(("n",), text, "text"),
    "width": PromptField(("w",), side, f"1 to {MOST_PIXELS_A_SIDE} pixels"),
    "height": PromptField(("h",), side, f"1 to {MOST_PIXELS_A_SIDE} pixels"),
    "num_inference_steps": PromptField(("s",), lambda value: whole_number(value, 1, 10_000), "1 to 10000 steps"),
    "guidance_scale": PromptField(("l", "g"), number, "a number"),
    "seed": PromptField(("d",), lambda value: whole_number(value, 0, 2**63 - 1), "one whole number, 0 to 2^63 - 1"),
    "sampler": PromptField(("ss",), sampler, expected_samplers),
    "strength": PromptField(("am",), strengths, "a number, or one per adapter with commas between"),
    "image": PromptField(("i",), words, "an image file"),
    "mask_image": PromptField(("m",), words, "an image file"),
    "image_strength": PromptField(("t",), share, "a share above 0, at most 1"),
}
LETTERS = {letter: name for name, field in FIELDS.items() for letter in field.letters}
assert {field.name for field in fields(PromptOptions)} == {"prompt", *FIELDS}
ELSEWHERE: Mapping[str, str] = {
    "nl": "the guidance of the negative prompt",
    "cn": "an image for ControlNet",
    "ctr": "a ratio of ControlNet",
    "f": "the frames of a video",
    "fs": "the shift of flow matching",
    "glt": "gradual latents",
    "glr": "gradual latents",
    "gls": "gradual latents",
    "gle": "gradual latents",
    "ar": "the aspect of Midjourney's images; use --w and --h",
}
"""Options of other programs that have no counterpart here."""
CALLED_HERE: Mapping[str, str] = {
    **dict.fromkeys(("scale", "cfg", "cfg_scale", "guidance"), "guidance_scale"),
    **dict.fromkeys(("steps", "sample_steps", "diffusion_steps", "num_steps"), "num_inference_steps"),
    **dict.fromkeys(("negative", "neg", "negativeprompt"), "negative_prompt"),
    **dict.fromkeys(("sample_sampler", "noise_scheduler", "scheduler"), "sampler"),
    **dict.fromkeys(("text", "caption", "positive_prompt"), "prompt"),
}
"""Their names of ours."""
OPTION = re.compile(r"(?:^|\s)--([a-zA-Z]\w*)(?=\s|=|$)=?")


def read_notation(line: str) -> tuple[PromptOptions, list[str]]:
    """Read a prompt in sd-scripts' notation: `a cat --w 512 --n blurry`. Also return what is wrong with it."""
    first, *rest = OPTION.split(line)
    given: dict[str, object] = {}
    found: list[str] = []
    for option, value in zip(rest[::2], rest[1::2], strict=True):
        name = LETTERS.get(option.lower(), option)
        if name not in FIELDS:
            found.append(unknown_option(option))
        elif name in given:
            found.append(f"--{option}: given twice. Keep one.")
        else:
            given[name] = value.strip()
    options, wrong = options_from(first.strip() if rest else first, given, spelled=spelling(line))
    return options, found + wrong


def with_shared(line: str, shared: PromptOptions) -> PromptOptions:
    """Read a prompt, and take from `shared` what it does not say."""
    own = {name: value for name, value in vars(read_notation(line)[0]).items() if value is not None}
    return PromptOptions(**(vars(shared) | own))


def spelling(line: str) -> Mapping[str, str]:
    """Return each field's option as the line spells it."""
    options: list[str] = OPTION.findall(line)
    return {LETTERS.get(option.lower(), option): f"--{option}" for option in options}


def unknown_option(option: str) -> str:
    """Say what is wrong with an option that does not exist."""
    if what := ELSEWHERE.get(option.lower()):
        return f"--{option}: {what}, which is not supported. Remove it."
    known = ", ".join(f"--{field.letters[0]} ({name})" for name, field in FIELDS.items())
    return f"--{option}: no such option.{called_here(option, FIELDS)} Use {known}; words need no two hyphens."


def called_here(name: str, known: Collection[str]) -> str:
    """Return a sentence with our name of an option. Empty where none is near."""
    ours = CALLED_HERE.get(name.lower())
    return suggestion(name, known) if ours is None else f" It is called {ours} here."


def options_from(
    prompt: str, given: Mapping[str, object], spelled: Mapping[str, str]
) -> tuple[PromptOptions, list[str]]:
    """Read the fields of a prompt. Also return what is wrong; `spelled` has their names in messages."""
    values: dict[str, object] = {}
    found: list[str] = []
    for name, value in given.items():
        try:
            values[name] = FIELDS[name].read(value)
        except (ValueError, TypeError):
            expected = FIELDS[name].expected
            said = expected if isinstance(expected, str) else expected(str(value))
            got = "nothing" if value in ("", None, [], ()) else str(value)
            found.append(f"{spelled.get(name, name)}: got {got}, expected {said}.")
    for name, other in (("mask_image", "image"), ("image_strength", "image")):
        if name in given and other not in given:
            found.append(f"{spelled.get(name, name)}: given without an image. Give {other} (--{LETTER[other]}) too.")
    return PromptOptions(prompt, **values), found  # pyright: ignore[reportArgumentType]  (each field was read)


LETTER = {name: field.letters[0] for name, field in FIELDS.items()}


def options_of_mapping(given: Mapping[object, object]) -> tuple[PromptOptions, list[str]]:
    """Read a prompt with the fields of a mapping. Also return what is wrong."""
    known: dict[str, object] = {}
    found: list[str] = []
    for name, value in given.items():
        if name in FIELDS and value is not None:
            known[str(name)] = value
        elif name not in ("prompt", *FIELDS):
            found.append(
                f"{name}: no such option.{called_here(str(name), ['prompt', *FIELDS])} Use {', '.join(FIELDS)}."
            )
    prompt = given.get("prompt")
    if not isinstance(prompt, str):
        found.append(f"prompt: got {'nothing' if prompt is None else prompt}, expected text.")
        prompt = ""
    for name in ("prompt", "negative_prompt"):
        if inside := OPTION.search(str(given.get(name, ""))):
            found.append(f"{name}: holds the option {inside[0].strip()}. Write it as a key of its own.")
    if is_path(prompt):
        found.append(f"prompt: got the path {prompt}, expected a prompt.")
    options, wrong = options_from(" ".join(prompt.split()), known, spelled={})
    return options, found + wrong


def write_notation(options: PromptOptions) -> str:
    """Write a prompt in the notation that `read_notation` reads."""
    parts = [options.prompt]
    for name, field in FIELDS.items():
        value: object = vars(options)[name]
        if isinstance(value, tuple):
            value = ",".join(map(repr, cast("tuple[float, ...]", value)))
        if value is not None:
            parts.append(f"--{field.letters[0]} {value}".rstrip())
    return " ".join(parts)


def notation_problems(option: str, lines: tuple[str, ...]) -> list[str]:
    """List what is wrong with prompts of an option, by prompt."""
    return [f'{option}: "{line[:80]}": {wrong}' for line in lines for wrong in read_notation(line)[1]]
