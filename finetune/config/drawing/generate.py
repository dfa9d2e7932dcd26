"""Options of `finetune generate`; torch-free."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from finetune.config.checks import refuse
from finetune.config.drawing.grid import Axis, read_axes
from finetune.config.drawing.options import FIELDS, PromptOptions, notation_problems, options_from, with_shared
from finetune.config.facts import Count, Mark
from finetune.config.sections import ModelConfig


@dataclass(frozen=True)
class GenerateConfig:
    """Images drawn from prompts with a base model, adapters and new tokens. A prompt's own options win over those
    here."""

    model: ModelConfig
    prompts: Annotated[tuple[str, ...], Mark.PROMPT, Mark.PROMPT_LIST]
    """Prompts, in sd-scripts' notation (a cat --w 512 --d 42), or files of prompts: .txt, .yaml or .json."""
    output: Path
    """Folder of the images; the same command again draws only those that are missing."""
    lora: tuple[str, ...] = ()
    """Files of adapters, each with its strength behind a colon, such as ink.safetensors:0.8; 1 where none is given. The
    folder of a run or its export stands for the files in it."""
    embedding: tuple[str, ...] = ()
    """Files of new tokens."""
    negative_prompt: Annotated[str, Mark.PROMPT] = ""
    """Negative prompt."""
    width: int | None = None
    """Pixels; none takes the model's own size, or that of the image."""
    height: int | None = None
    """Pixels; none takes the model's own size, or that of the image."""
    seed: int = 0
    """Seed of the first image of a prompt."""
    num_seeds: Count = 1
    """Images per prompt, with seed, seed + 1, ..."""
    num_inference_steps: int = 30
    """Denoising steps."""
    guidance_scale: float | None = None
    """Guidance, classifier-free or distilled; none takes the usual value of the architecture."""
    sampler: str | None = None
    """A1111's name (DPM++ 2M Karras) or a scheduler class of diffusers; none takes the checkpoint's own."""
    image: str | None = None
    """Image file to begin with."""
    mask_image: str | None = None
    """Image file that is white where the image is drawn again."""
    image_strength: float | None = None
    """How much of the image is drawn again; none takes 0.8, with a mask 1."""
    grid: tuple[str, ...] = ()
    """Axes of a grid, such as x=strength:0.5,0.75,1 y=seed:0,1,2 z=sampler:DDIM,Euler; y=prompt gives each prompt a
    row."""
    batch_size: Count = 1
    """Images drawn at once, where their sizes and options are equal."""
    device: str | None = None
    """Device of torch, such as cuda:1 or cpu; none takes a GPU where there is one."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the computation; auto is fp32 on a CPU, bf16 on a GPU."""

    def __post_init__(self) -> None:
        refuse(self)

    def problems(self) -> Iterator[str]:
        """Name what is wrong with prompts, files and options."""
        if not self.prompts:
            yield "prompts: expected a prompt or a file of prompts."
        yield from notation_problems("prompts", self.prompts)
        yield from options_from("", self.given(), spelled={})[1]
        yield from read_axes(self.grid, self.num_seeds)[1]
        for option, named in (("lora", self.lora), ("embedding", self.embedding)):
            for name in named:
                if not os.path.exists(name) and not (option == "lora" and os.path.exists(split_strength(name)[0])):
                    yield f"{option}: no file {name}. Give the path of a safetensors file or of a run."
        for given in self.lora:
            yield from strength_problems("lora", given)
        used = [path for prompt in self.read_prompts() for path in (prompt.image, prompt.mask_image)]
        used += [str(value) for axis in self.axes() if axis.field in ("image", "mask_image") for value in axis.values]
        for name in dict.fromkeys(used):
            if name is not None and not os.path.isfile(name):
                yield f"image: no file {name}. Give the path of an image."
        if self.model.quantization != "none" or self.model.offload:
            yield "model.quantization, model.offload: expected none and false; images are drawn without. Remove it."
        if self.output.exists() and not self.output.is_dir():
            yield f"output: {self.output} is a file, expected a folder. Choose another name."

    def given(self) -> dict[str, object]:
        """Return the options for prompts that say nothing else."""
        return {name: vars(self)[name] for name in FIELDS if name != "strength" and vars(self)[name] is not None}

    def axes(self) -> list[Axis]:
        """Return the axes of the grid, x first."""
        return read_axes(self.grid, self.num_seeds)[0]

    def read_prompts(self) -> list[PromptOptions]:
        """Return the prompts, with these options where they have none."""
        shared, _ = options_from("", self.given(), spelled={})
        return [with_shared(line, shared) for line in self.prompts]


def strength_problems(option: str, given: str) -> Iterator[str]:
    """Refuse a strength that is not finite."""
    name, strength = split_strength(given)
    if not math.isfinite(strength):
        yield f"{option}: got strength {strength} of {name}, expected a number such as 0.8. Write {name}:0.8."


def split_strength(given: str) -> tuple[str, float]:
    """Split FILE:STRENGTH; the strength is 1 where none is given."""
    path, _, text = given.rpartition(":")
    if path and not os.path.exists(given):
        try:
            return path, float(text)
        except ValueError:
            pass
    return given, 1.0
