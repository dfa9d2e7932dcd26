"""All options of a preparation, and the rules between them. Every problem is reported at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import ImageColor

from datasets_prep.config.captions import CaptionsConfig, LintConfig
from datasets_prep.config.checks import not_utf8
from datasets_prep.config.images import DedupConfig, LimitsConfig, QualityConfig
from datasets_prep.config.result import BucketsConfig, SplitConfig, WriteConfig
from datasets_prep.config.scores import ScoresConfig
from finetune.config.checks import secrets_in


@dataclass(frozen=True)
class PrepConfig:
    """Turn images into a dataset: checked, without duplicates, captioned, for every recipe.

    Every file of the source is listed in OUTPUT/metadata.jsonl or, with the reason, in OUTPUT/rejected.jsonl. The
    source is never written to. The same command again does only what is new. OUTPUT/report.html shows the result;
    `python -m datasets_prep review OUTPUT` lets you decide otherwise, image by image.
    """

    source: tuple[str, ...]
    """Folders, a Hub dataset id, a folder of Dataset.save_to_disk, .parquet files, WebDataset .tar files, images, or a
    .txt or .lst file with one path per line.
    """
    output: Path
    """Folder to write; a folder that this command did not write is never changed."""
    trigger: str | None = None
    """Words that call up what is trained, e.g. "ink style"; appended to captions that do not contain them."""
    caption_column: str = "text"
    """Column of the captions in a listing, a table or a .json file beside an image."""
    image_column: str = "image"
    """Column of the images in a table."""
    folder_repeats: Literal["auto", "on", "off"] = "auto"
    """Whether images of a folder called 10_NAME are used ten times per pass; auto decides by the names of all folders
    and asks where they leave it open.
    """
    follow_links: bool = False
    """Read files that links lead to outside the source's folder; otherwise they are refused."""
    background: str = "white"
    """Colour behind transparent pixels."""
    workers: int = 0
    """Processes that decode; 0 means one per core."""
    engine: Literal["pool", "ray"] = "pool"
    """Where decoding runs: on this machine, or on the Ray cluster that RAY_ADDRESS names."""
    shard: str | None = None
    """i/n decodes the i-th of n parts (from 1) and stops, for job arrays; run without it at the end."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    lint: LintConfig = field(default_factory=LintConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    buckets: BucketsConfig = field(default_factory=BucketsConfig)
    write: WriteConfig = field(default_factory=WriteConfig)

    def __post_init__(self) -> None:
        sections = (self.limits, self.quality, self.scores, self.dedup, self.captions, self.lint, self.split)
        found = [problem for rule in RULES for problem in rule(self)]
        found += [problem for each in (*sections, self.buckets, self.write) for problem in each.problems()]
        found += secrets_in(self)
        if found:
            raise ValueError("\n".join(found))


def source_problems(config: PrepConfig) -> list[str]:
    """Refuse a source that is blank."""
    if config.source and all(given.strip() for given in config.source):
        return []
    return ["source: got nothing or a blank, expected a folder of images or another source."]


def trigger_problems(config: PrepConfig) -> list[str]:
    """Refuse a trigger that no caption file can hold."""
    return not_utf8("", trigger=config.trigger)


def column_problems(config: PrepConfig) -> list[str]:
    """Refuse columns without a name."""
    columns = {"caption_column": config.caption_column, "image_column": config.image_column}
    return [
        f"{option}: got a blank, expected the name of a column." for option, name in columns.items() if not name.strip()
    ]


def worker_problems(config: PrepConfig) -> list[str]:
    """Refuse a negative number of processes."""
    if config.workers >= 0:
        return []
    return [f"workers: got {config.workers}, expected 0 (one a core) or more."]


def background_problems(config: PrepConfig) -> list[str]:
    """Refuse a background that is not a colour."""
    try:
        ImageColor.getrgb(config.background)
    except ValueError:
        return [f"background: got {config.background!r}, expected a colour such as white, grey or #ffcc00."]
    return []


def shard_problems(config: PrepConfig) -> list[str]:
    """Refuse a shard that is not i/n."""
    first, _, last = "1/1".partition("/") if config.shard is None else config.shard.partition("/")
    if first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last):
        return []
    return [f"shard: got {config.shard!r}, expected i/n with 1 <= i <= n, e.g. 3/16."]


RULES: tuple[Callable[[PrepConfig], list[str]], ...] = (
    source_problems,
    trigger_problems,
    column_problems,
    worker_problems,
    background_problems,
    shard_problems,
)
"""Rules of options outside the sections, and between sections; a problem is a sentence that names the option."""
