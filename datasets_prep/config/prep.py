"""All options of a preparation, and the rules between them. Every problem is reported at once."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from PIL import ImageColor

from datasets_prep.config.captions import CaptionsConfig, LintConfig, SavableText, TagsConfig
from datasets_prep.config.images import DedupConfig, LimitsConfig, QualityConfig
from datasets_prep.config.result import BucketsConfig, SplitConfig, WriteConfig
from datasets_prep.config.scores import ScoresConfig
from finetune.config.checks import refuse
from finetune.config.facts import Bound, Mark, at_least, not_empty
from finetune.config.sections import CacheConfig
from finetune.data.remote.storage import is_url


def is_colour(text: str) -> bool:
    """Return True for what Pillow reads as a colour."""
    try:
        return bool(ImageColor.getrgb(text))
    except ValueError:
        return False


def is_part(text: str) -> bool:
    """Return True for i/n with 1 <= i <= n."""
    first, _, last = text.partition("/")
    return first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)


def url_of(path: Path) -> str | None:
    """Return the URL that was given as a path, else None. A path writes the two slashes of a URL as one."""
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)", path.as_posix())
    return None if found is None else f"{found[1]}://{found[2]}"


SOURCES = Bound(lambda given: given and all(text.strip() for text in given), "a folder of images or another source")
COLUMN = not_empty("the name of a column")
COLOUR = Bound(is_colour, "a colour such as white, grey or #ffcc00")
PART = Bound(is_part, "i/n with 1 <= i <= n, e.g. 3/16")


@dataclass(frozen=True)
class PrepConfig:
    """Turn images into a dataset: checked, without duplicates, captioned, for every recipe.

    Every file of the source is listed in OUTPUT/metadata.jsonl or, with the reason, in OUTPUT/rejected.jsonl. The
    source is never written to. The same command again does only what is new. OUTPUT/report.html shows the result;
    `python -m datasets_prep review OUTPUT` lets you decide otherwise, image by image.
    """

    source: Annotated[tuple[str, ...], SOURCES]
    """Folders, a Hub dataset id, a folder of Dataset.save_to_disk, .parquet files, WebDataset .tar files, images, or a
    .txt or .lst file with one path per line; or URLs of folders of these in remote storage, such as s3://bucket/raw."""
    output: Path
    """Folder to write; a folder that this command did not write is never changed. The dataset is uploaded where it is a
    URL, such as s3://bucket/prepared."""
    trigger: SavableText | None = None
    """Words that call up what is trained, e.g. "ink style"; appended to captions that do not contain them."""
    caption_column: Annotated[str, COLUMN] = "text"
    """Column of the captions in a listing, a table or a .json file beside an image."""
    image_column: Annotated[str, COLUMN] = "image"
    """Column of the images in a table."""
    folder_repeats: Literal["auto", "on", "off"] = "auto"
    """Whether images of a folder called 10_NAME are used ten times per pass; auto decides by the names of all folders
    and asks where they leave it open."""
    follow_links: bool = False
    """Read files that links lead to outside the source's folder; otherwise they are refused."""
    background: Annotated[str, COLOUR] = "white"
    """Colour behind transparent pixels."""
    workers: Annotated[int, at_least(0, "(0: one a core)")] = 0
    """Processes that decode; 0 means one per core."""
    engine: Literal["pool", "ray"] = "pool"
    """Where decoding runs: on this machine, or on the Ray cluster that RAY_ADDRESS names."""
    work: Path | None = None
    """Folder of this machine for what is fetched from URLs, and for a result that is uploaded; none means
    ~/.cache/sd-finetune/preparation (or $XDG_CACHE_HOME)."""
    shard: Annotated[str | None, PART] = None
    """i/n decodes the i-th of n parts (from 1) and stops, for job arrays; run without it at the end."""
    limits: Annotated[LimitsConfig, Mark.ENDLESS] = field(default_factory=LimitsConfig)
    quality: Annotated[QualityConfig, Mark.ENDLESS] = field(default_factory=QualityConfig)
    scores: Annotated[ScoresConfig, Mark.ENDLESS] = field(default_factory=ScoresConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    tags: TagsConfig = field(default_factory=TagsConfig)
    lint: LintConfig = field(default_factory=LintConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    buckets: BucketsConfig = field(default_factory=BucketsConfig)
    write: Annotated[WriteConfig, Mark.ENDLESS] = field(default_factory=WriteConfig)

    def __post_init__(self) -> None:
        refuse(self, (work_is_shared, work_is_apart))

    @property
    def url(self) -> str | None:
        """The URL of the output; None for a folder."""
        return url_of(self.output)

    @property
    def folder(self) -> Path:
        """The folder of this machine that is written."""
        return self.output.expanduser().resolve() if self.url is None else self.work_folder("prepared", self.url)

    def work_folder(self, kind: str, url: str) -> Path:
        """Return the folder of this machine for a URL. Its name is the last one of the URL."""
        place = (self.work or CacheConfig().place / "preparation").expanduser().resolve()
        name = url.rstrip("/").rpartition("/")[2]
        return place / kind / hashlib.sha256(url.encode("utf-8")).hexdigest()[:16] / name


def work_is_apart(output: Path, work: Path | None) -> Iterator[str]:
    """Nothing is fetched into the folder that is written."""
    target = output.expanduser().resolve()
    if work is not None and url_of(output) is None and work.expanduser().resolve().is_relative_to(target):
        yield f"work: {work} is in the output {output}, expected two separate folders. Give a folder elsewhere."


def work_is_shared(
    source: tuple[str, ...], output: Path, engine: str, shard: str | None, work: Path | None
) -> Iterator[str]:
    """Several machines need a work folder that all of them see."""
    uses_url = url_of(output) is not None or any(map(is_url, source))
    if uses_url and work is None and (engine == "ray" or shard is not None):
        which = "engine ray" if engine == "ray" else f"shard {shard}"
        yield f"work: got none with {which} and a URL. Set it to a folder that all machines see under the same path."
