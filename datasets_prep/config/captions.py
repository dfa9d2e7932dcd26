"""Options of captions, with their checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from finetune.config.facts import Bound, Count, Share

CAPTIONERS: Mapping[str, str] = {
    "florence2": "datasets_prep.captioners.florence2:Florence2Captioner",
    "blip": "datasets_prep.captioners.blip:BlipCaptioner",
    "blip2": "datasets_prep.captioners.blip:Blip2Captioner",
    "qwen_vl": "datasets_prep.captioners.qwen_vl:QwenVLCaptioner",
    "llava": "datasets_prep.captioners.llava:LlavaCaptioner",
    "wd_tagger": "datasets_prep.captioners.wd_tagger:WDTagger",
    "http": "datasets_prep.captioners.http:HttpCaptioner",
}
"""The class of each captioner as "module:Class", imported when it is used, and called with the options."""
if TYPE_CHECKING:
    CaptionerName = str
else:
    CaptionerName = Literal[("file_name", *CAPTIONERS)]  # file_name looks at no image
Kinds = tuple[Literal["short", "long", "tags"], ...]
EACH_ONCE = Bound(lambda kinds: kinds and len(set(kinds)) == len(kinds), "some of short, long, tags, each once")
CONTAINS_CAPTION = Bound(lambda text: "{caption}" in text, "a text that contains {caption}")
SavableText = Annotated[
    str,
    Bound(
        lambda text: "\0" not in text and text == text.encode("utf-8", "ignore").decode(),
        "text that UTF-8 can hold, without NUL",
    ),
]


@dataclass(frozen=True)
class CaptionsConfig:
    """Where captions come from, besides those that images have."""

    captioner: CaptionerName = "file_name"
    """What writes captions; file_name needs no model."""
    mode: Literal["fill", "replace", "add"] = "fill"
    """fill writes where there is none; replace writes all again; add appends new ones to existing ones."""
    model: str | None = None
    """Folder or Hub id of the captioner's model, or its name on the server."""
    lines: Literal["alternatives", "joined", "first"] | None = None
    """What several lines of a caption file are: captions to draw from, one caption, or a caption and notes below it;
    none is alternatives, but refuses paragraphs and wrapped sentences."""
    keep_rating: bool = False
    """Keep a gallery's rating among the tags, and that beside them in JSON as the last: rating:explicit."""
    ignore: tuple[str, ...] = ()
    """Names or patterns of files that are not captions, e.g. "*.xmp"; they are not read."""
    kinds: Annotated[Kinds, EACH_ONCE] = ("long",)
    """Kinds of captions to write for each image; the first becomes its text."""
    prompt: SavableText | None = None
    """Instruction to the model instead of that of the kind."""
    batch_size: Count = 8
    """Images at a time; halved where memory does not suffice."""
    max_new_tokens: Count = 256
    """Most tokens of a caption."""
    max_side: Count = 768
    """Largest size at which the model sees images."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the model; auto takes bfloat16 on a GPU and float32 on a CPU."""
    threshold: Share = 0.35
    """Probability from which a tagger names a tag; characters need 0.85."""
    url: str | None = None
    """Address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the server's key, if it needs one."""
    requests_in_flight: Count = 8
    """Requests to the server at a time."""
    prefix: SavableText = ""
    """Text before every written caption."""
    template: Annotated[SavableText, CONTAINS_CAPTION] = "{caption}"
    """Text around every written caption, in place of {caption}."""

    def problems(self) -> list[str]:
        found = []
        if (self.captioner == "http") != (self.url is not None):
            found.append(
                f"captions: got captioner {self.captioner} and url {self.url}, expected http with an address, e.g. "
                "http://127.0.0.1:8000/v1, or another captioner without."
            )
        if self.captioner == "file_name" and self.kinds and self.kinds != ("long",):
            found.append(
                f"captions.kinds: got {' '.join(self.kinds)}, but the captioner file_name writes one for each image. "
                "Name another captioner: captions.captioner."
            )
        if self.captioner == "file_name" and self.model is not None:
            found.append(
                f"captions.model: got {self.model}, but the captioner file_name has no model. Name another captioner: "
                "captions.captioner."
            )
        missing = f"captions.model: missing, the captioner {self.captioner} needs the folder or id of its model."
        return [*found, missing] if self.captioner != "file_name" and self.model is None else found


PAIRS = Bound(lambda given: all(len(each.split("=")) == 2 and each.split("=")[0].strip() for each in given), "OLD=NEW")


@dataclass(frozen=True)
class TagsConfig:
    """Changes of tags, in this order. Captions in sentences and those decided in review are not changed."""

    replace: Annotated[tuple[str, ...], PAIRS] = ()
    """Tags and what they become, e.g. "grey hair=gray hair"; nothing behind = drops it."""
    drop: tuple[str, ...] = ()
    """Tags to leave out, e.g. highres."""
    implied: Annotated[tuple[str, ...], PAIRS] = ()
    """Specific tags and the general ones that they imply, e.g. "cat ears=animal ears"."""
    implications: Literal["drop", "add"] = "drop"
    """drop leaves out a general tag beside a specific one, add writes it behind the others."""
    underscores: Literal["keep", "spaces"] = "keep"
    """spaces writes long_hair as long hair; faces such as ^_^ stay."""
    sort: Literal["keep", "alphabet"] = "keep"
    """Order of the tags."""

    def problems(self) -> list[str]:
        if self.implications == "add" and not self.implied:
            return ["tags.implications: got add without tags.implied, so there is nothing to add. Name the tags."]
        return []


@dataclass(frozen=True)
class LintConfig:
    """Checks of captions. None of them rejects an image."""

    tokenizer: str | None = None
    """Folder or Hub id of the tokenizer of the model to be trained; without one, tokens are estimated."""
    max_tokens: Count = 75
    """Longest caption; CLIP reads 75 at a time."""
    is_style_set: bool = False
    """Whether the dataset teaches a style, which captions should then not describe."""
    boilerplate_share: Share = 0.2
    """A phrase of four words in more than this share of the captions counts as boilerplate."""
