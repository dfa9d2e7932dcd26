"""The options of a preparation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import ImageColor

from finetune.config.sections import secrets_in

CaptionerName = Literal["file_name", "florence2", "blip", "blip2", "qwen_vl", "llava", "wd_tagger", "http"]


def _check_positive(section: str, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:  # nor nan
            raise ValueError(f"{section}.{name}: got {value:g}, expected a number above 0.")


def _check_share(section: str, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{section}.{name}: got {value:g}, expected 0 to 1.")


def _check_texts(section: str, **values: str | None) -> None:
    for name, value in values.items():
        if value is not None and ("\0" in value or value != value.encode("utf-8", "ignore").decode()):
            raise ValueError(f"{section}{name}: got {value!r}, expected text that UTF-8 can hold, without NUL.")


@dataclass(frozen=True)
class LimitsConfig:
    """What a single file may cost; one that costs more is left out, and the rest goes on."""

    pixels: int = 100 * 2**20
    """Most pixels of a picture, read from its header before one is decoded."""
    side: int = 32768
    """Longest side in pixels."""
    file_mb: float = 500.0
    """Largest file."""
    seconds: float = 30.0
    """Longest time that reading and measuring one file may take."""
    memory_gb: float = 4.0
    """Address space that the process which decodes may add to what it starts with."""

    def __post_init__(self) -> None:
        _check_positive("limits", **{name: getattr(self, name) for name in ("side", "file_mb", "seconds", "memory_gb")})
        if self.file_mb > 500:  # above it no part of the project reads a picture
            raise ValueError(f"limits.file_mb: got {self.file_mb:g}, expected at most 500.")
        if not 1 <= self.pixels <= 100 * 2**20:  # above it finetune.data.images.decode refuses, and so would training
            raise ValueError(f"limits.pixels: got {self.pixels}, expected 1 to {100 * 2**20} (as in training).")


@dataclass(frozen=True)
class QualityConfig:
    """When a picture is left out, and when it is kept but flagged."""

    min_side: int = 64
    """Pictures with a side of fewer pixels are left out."""
    max_aspect: float = 8.0
    """Pictures longer than this many times their width, or wider, are left out."""
    min_deviation: float = 4.0
    """Pictures whose channels deviate less from their means, in levels of 255, show nothing and are left out."""
    flag_side: int = 256
    """A side of fewer pixels is flagged as small."""
    flag_aspect: float = 4.0
    """A longer aspect is flagged as long."""
    flag_dark: float = 25.0
    """A mean brightness below, in levels of 255, is flagged as dark."""
    flag_light: float = 245.0
    """A mean brightness above is flagged as light; drawings on white are often so."""
    flag_blurred: float = 0.42
    """Detail below is flagged as blurred: the share of the picture's own resolution that its edges use, 0 to 1."""
    flag_upscaled: float = 0.56
    """Where the spectrum ends below this share of the resolution, the picture is flagged as upscaled; what was enlarged
    four times always is, what was enlarged twice in a quarter of the cases."""
    flag_jpeg_quality: int = 50
    """A JPEG saved with a lower quality is flagged as compressed."""
    flag_blocks: float = 1.45
    """Steps at every eighth pixel this many times those elsewhere are flagged as blocks, whatever the format is."""
    flag_border: float = 0.02
    """Borders of one tone on a share of a side above this are flagged as border."""
    reject: tuple[str, ...] = ()
    """Flags whose pictures are left out too, e.g. blurred blocks."""

    def __post_init__(self) -> None:
        _check_positive("quality", min_side=self.min_side, max_aspect=self.max_aspect, flag_aspect=self.flag_aspect)
        if self.max_aspect < 1 or self.flag_aspect < 1:
            raise ValueError("quality.max_aspect, quality.flag_aspect: expected 1 or more, long side by short side.")
        _check_share("quality", flag_blurred=self.flag_blurred, flag_upscaled=self.flag_upscaled)
        _check_share("quality", flag_border=self.flag_border)
        unknown = sorted(set(self.reject) - set(FLAGS))
        if unknown:
            raise ValueError(f"quality.reject: got {', '.join(unknown)}, expected some of {', '.join(FLAGS)}.")


FLAGS = ("small", "long", "dark", "light", "blurred", "upscaled", "compressed", "blocks", "border", "animated")
"""What the quality gate says of pictures that it keeps."""


@dataclass(frozen=True)
class ScoresConfig:
    """Learned scores, each off until a model is named; they run where torch finds a device."""

    aesthetic_model: str | None = None
    """transformers image classifier or regressor (folder or Hub id) whose score is the aesthetic one."""
    min_aesthetic: float | None = None
    """Pictures with a lower score are left out."""
    nsfw_model: str | None = None
    """transformers image classifier; the score is the probability of its label that names unsafe content."""
    max_nsfw: float | None = None
    """Pictures with a higher score are left out."""
    watermark_model: str | None = None
    """transformers image classifier; the score is the probability of its label that names a watermark."""
    max_watermark: float | None = None
    """Pictures with a higher score are left out."""
    clip_model: str | None = None
    """CLIP or SigLIP model that scores how well picture and caption agree."""
    min_clip: float | None = None
    """Pictures whose caption agrees less are left out."""
    batch_size: int = 16
    """Pictures at a time; halved where memory does not suffice."""

    def __post_init__(self) -> None:
        _check_positive("scores", batch_size=self.batch_size)
        limits = {"min_aesthetic": "aesthetic", "max_nsfw": "nsfw", "max_watermark": "watermark", "min_clip": "clip"}
        for limit, name in limits.items():
            if getattr(self, limit) is not None and getattr(self, f"{name}_model") is None:
                raise ValueError(f"scores.{limit}: there is no model to give the score. Name one: scores.{name}_model.")


@dataclass(frozen=True)
class DedupConfig:
    """Which pictures count as near copies of another, and what becomes of them; those of the same bytes always go."""

    level: Literal["off", "fast", "thorough", "embed"] = "fast"
    """fast finds edits of the whole picture, centre crops, mirrored and turned ones; thorough finds off-centre crops
    and small turns as well; embed asks a vision model; off finds none."""
    near: Literal["auto", "drop", "report"] = "auto"
    """What becomes of near duplicates: drop keeps the best, report only names them; auto drops from 200 pictures on."""
    embed_model: str | None = None
    """transformers vision model (folder or Hub id) of the level embed, e.g. facebook/dinov2-base."""
    embed_similarity: float = 0.6
    """Cosine from which two pictures are looked at again in the level embed."""

    def __post_init__(self) -> None:
        _check_share("dedup", embed_similarity=self.embed_similarity)
        if (self.level == "embed") != (self.embed_model is not None):
            raise ValueError(
                f"dedup: got level {self.level} and embed_model {self.embed_model}, expected both or neither. "
                "Set dedup.level to embed and dedup.embed_model to a vision model."
            )


@dataclass(frozen=True)
class CaptionsConfig:
    """Where captions come from besides those that the pictures bring."""

    captioner: CaptionerName = "file_name"
    """What writes captions; file_name needs no model."""
    mode: Literal["fill", "replace", "add"] = "fill"
    """fill writes where there is none; replace writes all anew; add puts new ones behind those that are there."""
    model: str | None = None
    """Folder or Hub id of the captioner's model, or its name on the server."""
    lines: Literal["alternatives", "joined", "first"] | None = None
    """What several lines of a caption file are: captions to draw from, one caption, or a caption and notes below it;
    none is alternatives, but refuses paragraphs and wrapped sentences."""
    kinds: tuple[Literal["short", "long", "tags"], ...] = ("long",)
    """Captions to write for each picture, the first of which becomes its text."""
    prompt: str | None = None
    """Instruction to the model instead of the one that belongs to the kind."""
    batch_size: int = 8
    """Pictures at a time; halved where memory does not suffice."""
    max_new_tokens: int = 256
    """Most tokens of a caption."""
    max_side: int = 768
    """Pictures are shown to the model at this size at most."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the model; auto takes bfloat16 on a GPU and float32 on a CPU."""
    threshold: float = 0.35
    """Probability from which a tagger names a tag; characters need 0.85."""
    url: str | None = None
    """Address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key, if it wants one."""
    requests_in_flight: int = 8
    """Requests that the server gets at a time."""
    prefix: str = ""
    """Text before every written caption."""
    template: str = "{caption}"
    """Text around every written caption; {caption} stands for it."""

    def __post_init__(self) -> None:
        counts = ("batch_size", "max_new_tokens", "max_side", "requests_in_flight")
        _check_positive("captions", **{name: getattr(self, name) for name in counts})
        _check_share("captions", threshold=self.threshold)
        _check_texts("captions.", prefix=self.prefix, template=self.template, prompt=self.prompt)
        if "{caption}" not in self.template:
            raise ValueError(f"captions.template: got {self.template!r}, expected a text that holds {{caption}}.")
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"captions.kinds: got {self.kinds}, expected some of short, long, tags, each once.")
        if (self.captioner == "http") != (self.url is not None):
            raise ValueError(
                f"captions: got captioner {self.captioner} and url {self.url}, expected http with an address, e.g. "
                "http://127.0.0.1:8000/v1, or another captioner without."
            )
        if self.captioner == "file_name" and self.kinds != ("long",):
            raise ValueError(
                f"captions.kinds: got {' '.join(self.kinds)}, but the captioner file_name writes one for each picture. "
                "Name another captioner: captions.captioner."
            )
        if self.captioner == "file_name" and self.model is not None:
            raise ValueError(
                f"captions.model: got {self.model}, but the captioner file_name has no model. Name another captioner: "
                "captions.captioner."
            )
        if self.captioner != "file_name" and self.model is None:
            raise ValueError(
                f"captions.model: missing, the captioner {self.captioner} needs the folder or id of its model."
            )


@dataclass(frozen=True)
class LintConfig:
    """What captions are checked against; nothing of it leaves a picture out."""

    tokenizer: str | None = None
    """Folder or Hub id of the tokenizer of the model to be trained; without one tokens are estimated from the words."""
    max_tokens: int = 75
    """Longest caption; what CLIP reads in one piece."""
    is_style_set: bool = False
    """Whether the set is to teach a style, which captions should then not describe."""
    boilerplate_share: float = 0.2
    """A phrase of four words in more than this share of the captions counts as boilerplate."""

    def __post_init__(self) -> None:
        _check_positive("lint", max_tokens=self.max_tokens)
        _check_share("lint", boilerplate_share=self.boilerplate_share)


@dataclass(frozen=True)
class SplitConfig:
    """Pictures that are held out of training."""

    share: float = 0.0
    """Share of the pictures that get split "validation", 0 to 0.5. Near duplicates never stand on both sides."""
    group: Literal["folder", "picture"] = "folder"
    """What is held out together besides near duplicates: folders, where there are several, or nothing else."""
    seed: int = 0
    """Another number holds out others."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise ValueError(f"split.share: got {self.share:g}, expected 0 to 0.5.")


@dataclass(frozen=True)
class BucketsConfig:
    """The sizes that the report counts pictures for; as in the recipe's data options."""

    resolution: int = 512
    """Side of a square picture in training."""
    bucket_step: int = 64
    """Sides are multiples of it."""
    max_aspect: float = 2.0
    """Longest aspect ratio."""

    def __post_init__(self) -> None:
        if self.bucket_step < 1 or self.resolution < self.bucket_step or self.max_aspect < 1:
            raise ValueError(
                f"buckets: got resolution {self.resolution}, bucket_step {self.bucket_step}, max_aspect "
                f"{self.max_aspect:g}; expected a resolution of at least one step, and an aspect from 1."
            )


@dataclass(frozen=True)
class WriteConfig:
    """The form of the result."""

    format: Literal["auto", "folder", "parquet"] = "auto"
    """folder holds a file a picture, parquet shards of the original bytes; auto takes shards above 10,000 pictures."""
    shard_mb: float = 256.0
    """Size of a shard."""
    txt: bool = False
    """Whether a .txt file with the captions stands beside every picture, for other trainers; folder only."""
    reencode: Literal["no", "png", "webp"] = "no"
    """no keeps the original bytes; else pictures are saved anew without loss, upright and in sRGB."""

    def __post_init__(self) -> None:
        _check_positive("write", shard_mb=self.shard_mb)
        if self.txt and self.format == "parquet":
            raise ValueError("write.txt: text files stand beside pictures. Set write.format to folder.")


@dataclass(frozen=True)
class PrepConfig:
    """Turn pictures into a data set that every recipe reads: sound, without copies, captioned, and looked over.

    Every file of the source ends in OUTPUT/metadata.jsonl or, with the reason, in OUTPUT/rejected.jsonl. The source is
    never written to. The same command again does only what is new. OUTPUT/report.html shows what was found;
    `python -m datasets_prep review OUTPUT` lets you decide otherwise, picture by picture.
    """

    source: tuple[str, ...]
    """Folders, a Hub dataset id, a folder of Dataset.save_to_disk, .parquet files, WebDataset .tar files, pictures, or
    a .txt or .lst file with a path a line."""
    output: Path
    """Folder to write; one that this command did not write is never touched."""
    trigger: str | None = None
    """Words that call up what is trained, e.g. "ink style"; put behind every caption that does not hold them yet."""
    caption_column: str = "text"
    """Column of the captions in a listing, a table or a .json file beside a picture."""
    image_column: str = "image"
    """Column of the pictures in a table."""
    folder_repeats: Literal["auto", "on", "off"] = "auto"
    """Whether the images of a folder called 10_NAME stand ten times in a pass; auto decides by the names of all folders
    and asks where they leave it open."""
    follow_links: bool = False
    """Read what links lead to outside the source's folder; else they are refused."""
    background: str = "white"
    """Colour behind transparent pixels."""
    workers: int = 0
    """Processes that decode; 0 takes one a core."""
    engine: Literal["pool", "ray"] = "pool"
    """Where decoding runs: on this machine, or on the Ray cluster that RAY_ADDRESS names."""
    shard: str | None = None
    """i/n does the i-th of n parts of the decoding (from 1) and stops, for job arrays; run without it at the end."""
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
        if not self.source or not all(given.strip() for given in self.source):
            raise ValueError("source: got nothing or a blank, expected a folder of pictures or another source.")
        _check_texts("", trigger=self.trigger)
        if secret := secrets_in(self):
            raise ValueError("\n".join(secret))
        for name in ("caption_column", "image_column"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name}: got a blank, expected the name of a column.")
        if self.workers < 0:
            raise ValueError(f"workers: got {self.workers}, expected 0 (one a core) or more.")
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise ValueError(
                f"background: got {self.background!r}, expected a colour such as white, grey or #ffcc00."
            ) from None
        if self.shard is not None:
            first, _, last = self.shard.partition("/")
            if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
                raise ValueError(f"shard: got {self.shard!r}, expected i/n with 1 <= i <= n, e.g. 3/16.")
