"""The prompts and seeds that every checkpoint is drawn with. Torch-free."""

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from finetune.config.evaluate import GridConfig
from finetune.data.manifest import Record
from finetune.evaluate.contents import PLACES, THINGS

Kind = Literal["user", "held_out", "new_content", "neutral"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class GridPrompt:
    """One prompt, and what it asks for."""

    text: str
    """The prompt that is drawn."""
    content: str
    """The prompt without what the template adds, which the base model has words for."""
    kind: Kind
    reference: str | None = None
    """File name of the held-out image whose caption it is."""


@dataclass(frozen=True)
class Grid:
    """All prompts by kind, each drawn with all seeds."""

    prompts: tuple[GridPrompt, ...]
    seeds: tuple[int, ...]
    has_trigger: bool
    """False where every prompt takes the style, so neutral prompts say nothing of it."""
    captions: tuple[str, ...] = ()
    """Captions of training images that a leak would show, the most frequent first."""

    def of_kinds(self, *kinds: Kind) -> list[int]:
        """List the numbers of the prompts of some kinds."""
        return [number for number, prompt in enumerate(self.prompts) if prompt.kind in kinds]

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of all that is drawn."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


MOST_CAPTIONS = 4
STYLED: tuple[Kind, ...] = ("user", "held_out", "new_content")
"""Prompts that ask for the style or subject that was trained."""


def make_grid(
    records: Sequence[Record], held_out: Collection[int], config: GridConfig, template: str, own: Sequence[str] = ()
) -> Grid:
    """Derive the grid from the dataset and the options. The same ones give the same grid, in any order of records.
    `own` are further prompts of the user's."""
    trained = [record for index, record in enumerate(records) if index not in held_out]
    shown = sorted((record for index, record in enumerate(records) if index in held_out), key=lambda each: each.sha256)
    words = {word for record in trained for caption in record.captions for word in words_of(caption)}
    users = tuple(dict.fromkeys((*config.prompts, *own)))
    named = {without_template(text, template) for text in users}
    new = [each for each in config.contents or THINGS if words.isdisjoint(words_of(each)) and each not in named]
    if len(new) < 2 * config.num_prompts:
        more = "name more with --grid.contents" if config.contents else "name others with --grid.contents"
        raise ValueError(
            f"grid.contents: {len(new)} of {len(config.contents or THINGS)} things are in no caption of the training "
            f"set, expected {2 * config.num_prompts}: grid.num_prompts of new content, and as many neutral ones. Lower "
            f"grid.num_prompts, or {more}."
        )
    num = config.num_prompts
    prompts = [GridPrompt(text, without_template(text, template), "user") for text in users]
    prompts += held_out_prompts(shown, num, template)
    if config.subject:
        subject = config.subject
        prompts += [GridPrompt(f"{subject} {place}", f"{subject} {place}", "new_content") for place in PLACES[:num]]
    else:
        prompts += [GridPrompt(template.replace("{caption}", each), each, "new_content") for each in new[:num]]
    prompts += [GridPrompt(each, each, "neutral") for each in new[num : 2 * num]]
    has_trigger = bool(config.subject) or template.strip() != "{caption}"
    return Grid(tuple(prompts), tuple(range(config.num_seeds)), has_trigger, frequent_captions(trained))


def held_out_prompts(shown: Sequence[Record], num: int, template: str) -> list[GridPrompt]:
    """Make prompts of the first different captions of held-out images."""
    found: dict[str, GridPrompt] = {}
    for record in shown:
        caption = record.captions[0]
        if caption.strip() and caption not in found and len(found) < num:
            text = template.replace("{caption}", caption)
            found[caption] = GridPrompt(text, caption, "held_out", record.file_name)
    return list(found.values())


def frequent_captions(trained: Sequence[Record]) -> tuple[str, ...]:
    """List the most frequent captions of training images. Of equally frequent ones the image's content decides."""
    counts: dict[str, int] = {}
    for record in sorted(trained, key=lambda each: each.sha256):
        caption = record.captions[0]
        if caption.strip():
            counts[caption] = counts.get(caption, 0) + record.repeats
    return tuple(sorted(counts, key=lambda caption: -counts[caption])[:MOST_CAPTIONS])


def without_template(text: str, template: str) -> str:
    """Remove from a prompt what the template adds around it."""
    before, _, after = template.partition("{caption}")
    if len(text) > len(before) + len(after) and text.startswith(before) and text.endswith(after):
        return text[len(before) : len(text) - len(after)]
    return text


def words_of(text: str) -> set[str]:
    """List the words of a text that name things. In lower case, of three letters or more, without plurals."""
    return {word.removesuffix("s") for word in re.findall(r"[^\W\d_]{3,}", text.lower())} - {"the", "and", "with"}
