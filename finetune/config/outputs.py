"""Options of what a run writes: validation, previews, checkpoints, tracking, exports; torch-free."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from finetune.config.drawing.options import PromptOptions, notation_problems, read_notation, with_shared
from finetune.config.facts import Count, CountOrZero, Mark, Resume, ShareBelowOne

NOT_OF_PREVIEWS = ("image", "mask_image", "image_strength", "strength")


@dataclass(frozen=True)
class ValidationConfig:
    """Loss on held-out images, at fixed noise and fixed timesteps."""

    fraction: ShareBelowOne = 0.0
    """Share of the images held out, where the manifest itself names no validation split."""
    every: CountOrZero = 100
    """Steps between two validations; also at the start, the end, and an eighth, a quarter and half of the first
    interval. 0 turns validation off."""
    num_timesteps: Count = 4
    """Timesteps each held-out image is scored at, evenly spread."""


@dataclass(frozen=True)
class PreviewConfig:
    """Images drawn in training from fixed prompts and seeds. They are shown beside those of the base model."""

    prompts: Annotated[tuple[str, ...], Mark.PROMPT, Mark.PROMPT_LIST] = ()
    """Prompts, which may have options of their own (a cat --w 512 --d 42), or files of prompts; none turns previews
    off."""
    negative_prompt: Annotated[str, Mark.PROMPT] = ""
    """Negative prompt of all previews."""
    num_seeds: Count = 1
    """Images per prompt, with the seeds 0, 1, ..."""
    every: Count = 500
    """Steps between two previews; also at the start and the end."""
    num_inference_steps: Count = 30
    """Denoising steps."""
    guidance_scale: float | None = None
    """Guidance, classifier-free or distilled; none takes the usual value of the architecture."""
    size: Count | None = None
    """Side of the square images in pixels; none takes data.resolution."""

    def problems(self) -> Iterator[str]:
        """Name what is wrong with the options of prompts."""
        yield from notation_problems("preview.prompts", self.prompts)
        for line in self.prompts:
            given = vars(read_notation(line)[0])
            if unfit := [name for name in NOT_OF_PREVIEWS if given[name] is not None]:
                yield (
                    f'preview.prompts: "{line[:80]}" has {unfit[0]}, but previews begin with noise and have the '
                    "weights as they are. Remove it."
                )

    def read_prompts(self, size: int) -> list[PromptOptions]:
        """Return the prompts, with these options where they have none. The size is `size` where none is given."""
        side = self.size or size
        shared = PromptOptions(
            "", self.negative_prompt, side, side, 0, self.num_inference_steps, guidance_scale=self.guidance_scale
        )
        return [with_shared(line, shared) for line in self.prompts]


@dataclass(frozen=True)
class CheckpointConfig:
    """Saved states that a stopped run continues from."""

    every: Count = 250
    """Steps between two checkpoints; one is always written at the end and when the run is stopped."""
    keep: Count = 2
    """Newest checkpoints that stay on disk."""
    export: bool = False
    """Write the adapters and the tokens of each checkpoint into its folder export, too: LoRA for diffusers and as one
    file for other programs, LoHa and LoKr as one file and for peft, OFT for peft. The files are read again and compared
    with the trained weights; the model's output is compared at the end alone."""


@dataclass(frozen=True)
class OutputConfig:
    """Where the run writes."""

    folder: Path
    """The run's folder; the same command again resumes what it finds there."""
    name: Annotated[str | None, Resume.EXPORTED] = None
    """File name of the exported model, without ending; none takes the folder's name."""
    dtype: Annotated[Literal["fp16", "bf16", "fp32"], Resume.EXPORTED] = "fp16"
    """Number format of the exported weights."""
    one_file: Annotated[bool, Resume.EXPORTED] = False
    """Where all weights are trained: write them as one file for ComfyUI, A1111 and Forge, too."""

    mirror: str | None = None
    """URL in S3-compatible storage, such as s3://bucket/runs/ink, that checkpoints and results are copied to; the same
    command on another machine continues from there."""

    def problems(self) -> list[str]:
        if not re.fullmatch(r"[\w. -]+", self.export_name):
            given = "output.folder" if self.name is None else "output.name"
            return [
                f'{given}: the exported model would be called "{self.export_name}", expected letters, digits, spaces '
                "and . _ - alone. Set --output.name."
            ]
        if self.export_name == "pytorch_lora_weights":
            return ["output.name: pytorch_lora_weights is the name of the file in diffusers' layout; choose another."]
        return []

    @property
    def export_name(self) -> str:
        return self.folder.resolve().name if self.name is None else self.name
