"""Options of `finetune lora merge`; torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.config.checks import refuse
from finetune.config.drawing.generate import split_strength
from finetune.config.sections import ModelConfig


@dataclass(frozen=True)
class MergeConfig:
    """Options of `finetune lora merge`."""

    model: ModelConfig
    output: Path
    """New folder of the merged pipeline."""
    files: tuple[str, ...] = ()
    """Adapters of any layout, each with its strength behind a colon, such as ink.safetensors:0.8; 1 where none is
    given. They are named before the options."""
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Number format of the merged weights; they are added in float32."""

    def __post_init__(self) -> None:
        refuse(self, (files_given, new_output))

    @property
    def adapters(self) -> tuple[tuple[Path, float], ...]:
        """Files with their strengths."""
        found = map(split_strength, self.files)
        return tuple((Path(path), strength) for path, strength in found)


def files_given(files: tuple[str, ...]) -> Iterator[str]:
    """Refuse a command without files, and files that do not exist."""
    if not files:
        yield (
            "files: missing, expected adapters. Use: finetune lora merge FILE ... --model.source BASE --output FOLDER"
        )
    for file, _ in map(split_strength, files):
        if not Path(file).exists():
            yield f"files: no file or folder {file}. Expected a safetensors file, or a folder that peft wrote."


def new_output(output: Path) -> Iterator[str]:
    """Refuse to replace what is there."""
    if output.exists():
        yield f"output: {output} exists already, expected a new folder. Choose another name."
