"""Options of what a run writes: validation, previews, checkpoints, tracking, exports; torch-free."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from finetune.config.facts import Count, CountOrZero, Mark, Resume, ShareBelowOne


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

    prompts: Annotated[tuple[str, ...], Mark.PROMPT] = ()
    """Prompts; none turns previews off."""
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


@dataclass(frozen=True)
class CheckpointConfig:
    """Saved states that a stopped run continues from."""

    every: Count = 250
    """Steps between two checkpoints; one is always written at the end and when the run is stopped."""
    keep: Count = 2
    """Newest checkpoints that stay on disk."""


@dataclass(frozen=True)
class OutputConfig:
    """Where the run writes."""

    folder: Path
    """The run's folder; the same command again resumes what it finds there."""
    name: Annotated[str | None, Resume.EXPORTED] = None
    """File name of the exported model, without ending; none takes the folder's name."""
    dtype: Annotated[Literal["fp16", "bf16", "fp32"], Resume.EXPORTED] = "fp16"
    """Number format of the exported weights."""

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
