"""Tags of captions: changed by options, and counted."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets_prep.config import TagsConfig
from finetune.data.captions.tables import spaced
from finetune.json_text import parse_json


def tags_of(caption: str) -> list[str] | None:
    """Split a list of tags, in lower case with spaces. None for a caption in sentences."""
    if caption.count(",") < 2:
        return None
    pieces = [compared(piece) for piece in caption.split(",")]
    tags = [piece for piece in pieces if piece]
    num_words = sum(len(tag.split()) for tag in tags)
    has_sentence = re.search(r"[.!?]\s+\S", caption) is not None
    return tags if len(tags) >= 3 and num_words <= 2.5 * len(tags) and not has_sentence else None


def compared(tag: str) -> str:
    """Spell a tag for comparison, in lower case with spaces. Faces such as ^_^ stay."""
    return spaced(" ".join(tag.split())).lower()


@dataclass(frozen=True)
class TagEdits:
    """Changes of the tags in a caption."""

    has_spaces: bool
    dropped: frozenset[str]
    replaced: Mapping[str, str]
    implied: Mapping[str, frozenset[str]]
    """General tags by the specific tag that says them."""
    adds_implied: bool
    is_sorted: bool

    @classmethod
    def from_config(cls, config: TagsConfig) -> "TagEdits":
        """Read the options."""
        implied: dict[str, set[str]] = {}
        for specific, general in map(parted, config.implied):
            implied.setdefault(compared(specific), set()).add(general)
        return cls(
            config.underscores == "spaces",
            frozenset(map(compared, config.drop)),
            {compared(old): new for old, new in map(parted, config.replace)},
            {specific: frozenset(general) for specific, general in implied.items()},
            config.implications == "add",
            config.sort == "alphabet",
        )

    def applied(self, caption: str) -> str:
        """Return the changed caption. One in sentences is not changed; a single tag or two count as tags."""
        if not self._acts or (caption.count(",") >= 2 and tags_of(caption) is None):
            return caption
        if "," not in caption and len(caption.split()) > 3:
            return caption
        tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
        tags = [self.replaced.get(compared(tag), tag) for tag in tags]
        tags = [tag for tag in tags if tag and compared(tag) not in self.dropped]
        general = [each for tag in tags for each in sorted(self.implied.get(compared(tag), ()))]
        if self.adds_implied:
            tags += general
        else:
            said = set(map(compared, general))
            tags = [tag for tag in tags if compared(tag) not in said]
        tags = [spaced(tag) if self.has_spaces else tag for tag in tags]
        once = list({compared(tag): tag for tag in reversed(tags)}.values())[::-1]
        return ", ".join(sorted(once, key=compared) if self.is_sorted else once)

    @property
    def _acts(self) -> bool:
        return any((self.has_spaces, self.dropped, self.replaced, self.implied, self.is_sorted))


def parted(text: str) -> tuple[str, str]:
    """Split OLD=NEW."""
    old, _, new = text.partition("=")
    return old.strip(), new.strip()


def count_tags(captions: Iterable[str]) -> Counter[str]:
    """Count the tags of captions that are lists of tags."""
    return Counter(tag for caption in captions for tag in tags_of(caption) or ())


def listed_captions(prepared: Path) -> Iterator[str]:
    """Yield the captions that a prepared folder lists. Raises FileNotFoundError without a listing."""
    listing = prepared / "metadata.jsonl"
    if not listing.is_file():
        raise FileNotFoundError(f"tags: there is no {listing}. Give a folder that this command wrote.")
    with listing.open(encoding="utf-8") as lines:
        for line in lines:
            row = parse_json(line)
            if isinstance(row, dict):
                yield from (text for text in (row.get("text"), *(row.get("captions_alt") or ())) if text)
