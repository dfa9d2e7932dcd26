"""Options of one of several folders of a run; torch-free."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from finetune.config.facts import Bound, Count, Positive, at_least, not_empty

SHARE = Bound(lambda value: 0 < value < 1, "a share between 0 and 1")
TOLERANCE = 1e-3


@dataclass(frozen=True)
class TrainingFolder:
    """A folder of images among others, and what holds for it alone."""

    folder: Annotated[str, not_empty("a folder or a Hub dataset id")]
    """Images with captions, in any form that data.folder accepts."""
    repeats: Count = 1
    """Times that each image is used in one pass."""
    share: Annotated[float | None, SHARE] = None
    """Share of the samples that are of this folder, instead of repeats."""
    captions: Literal["listed", "folder", "none"] | None = None
    """Where its captions come from; none is as data.captions."""
    caption: str | None = None
    """One caption for all its images, instead of their own."""
    caption_prefix: str = ""
    """Text before each caption."""
    caption_suffix: str = ""
    """Text behind each caption."""
    trigger: str | None = None
    """Words as in data.trigger, for this folder."""
    is_regularisation: bool = False
    """Whether they are class images: half of all samples together, with their own captions."""
    weight: Positive = 1.0
    """Factor on the loss of its images."""
    mask: bool = True
    """Whether mask.kind holds for its images; false trains on them as a whole."""
    mask_folder: Path | None = None
    """Folder of its masks, as mask.folder is for data.folder."""
    resolution: Annotated[int | None, at_least(8, "pixels")] = None
    """Side of the square whose area its buckets stay within; none is data.resolution."""

    theirs: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("image_dir", "folder_path", "path", "instance_data_dir", "dataset_path"), "folder"),
        **dict.fromkeys(("num_repeats", "balancing"), "repeats"),
        **dict.fromkeys(("is_reg", "is_regularization", "is_class", "is_regularisation_data"), "is_regularisation"),
        **dict.fromkeys(("trigger_word", "trigger_words"), "trigger"),
        **dict.fromkeys(("class_tokens", "default_caption"), "caption"),
        "prefix": "caption_prefix",
        "suffix": "caption_suffix",
        "mask_path": "mask_folder",
        **dict.fromkeys(("loss_weight", "network_weight"), "weight"),
        "probability": "share",
        "masks": "mask",
    }
    """Names of options elsewhere, and ours."""

    @property
    def edits_captions(self) -> bool:
        """True if captions are changed for this folder."""
        return bool(self.caption or self.caption_prefix or self.caption_suffix or self.trigger)

    def problems(self) -> Iterator[str]:
        where = f"data.folders: {self.folder}"
        if self.share is not None and self.repeats != 1:
            yield f"{where}: got repeats {self.repeats} and share {self.share}, expected one of both. Remove one."
        if self.caption is not None and self.captions is not None:
            yield f"{where}: got captions {self.captions} and one caption for all images. Remove one of both."
        if self.caption is not None and not self.caption.strip():
            yield f"{where}: got an empty caption. Write one, or set captions none."
        if not self.mask and self.mask_folder is not None:
            yield f"{where}: got mask_folder {self.mask_folder} with mask false. Remove one of both."
        if self.is_regularisation:
            given = {"share": self.share, "trigger": self.trigger, "mask_folder": self.mask_folder}
            for name in [name for name, value in given.items() if value is not None]:
                yield (
                    f"{where}: got {name} with is_regularisation true. Class images are half of the samples, lack the "
                    f"trigger and are trained on as a whole. Remove {name}."
                )


def problems_of_folders(folders: Sequence[TrainingFolder], bucket_step: int, template: str) -> Iterator[str]:
    """Refuse folders that contradict each other or the other options of data."""
    own = [each for each in folders if not each.is_regularisation]
    if not own:
        yield "data.folders: all have is_regularisation true, expected images to learn too. Add their folder."
    for each in dict.fromkeys(each for each in folders if folders.count(each) > 1):
        yield f"data.folders: {each.folder} is listed twice. Remove one, or raise its repeats."
    shares = [each.share for each in own if each.share is not None]
    total = sum(shares)
    if shares and len(shares) == len(own) and abs(total - 1) > TOLERANCE:
        yield f"data.folders: the shares sum to {total:g}, expected 1. Change one, or omit it in one folder."
    if shares and len(shares) < len(own) and total >= 1 - TOLERANCE:
        yield f"data.folders: the shares sum to {total:g}, which leaves nothing for the others. Lower one."
    if template != "{caption}" and len(own) < len(folders):
        yield (
            f'data.template: got "{template}", which would give its words to the class images in data.folders too. Use '
            "caption_prefix and caption_suffix of the other folders."
        )
    for each in folders:
        if each.resolution is not None and bucket_step >= 1 and each.resolution % bucket_step:
            yield (
                f"data.folders: {each.folder}: got resolution {each.resolution}, expected a multiple of "
                f"data.bucket_step {bucket_step}. Use {max(1, round(each.resolution / bucket_step)) * bucket_step}."
            )
