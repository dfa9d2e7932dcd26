"""Options of `finetune lora merge`, `effect`, `convert` and `extract`; torch-free."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from finetune.config.checks import refuse
from finetune.config.drawing.generate import split_strength, strength_problems
from finetune.config.facts import above_zero, at_least
from finetune.config.new_outputs import new_output_problems
from finetune.config.sections import ModelConfig

MERGE_FIRST = (
    "Merge it (finetune lora merge), then make a LoRA of the result: finetune lora extract MERGED BASE --rank N."
)
"""The way out for adapters of other kinds than plain LoRA."""
OTHER_FILES = {".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft"}
"""Endings of weights that are not written here."""


@dataclass(frozen=True)
class MergeConfig:
    """Options of `finetune lora merge`."""

    model: ModelConfig
    """The base model, named first before the options, or here."""
    output: Path
    """New folder of the merged pipeline, or a .safetensors file of the whole model for other programs."""
    files: tuple[str, ...] = ()
    """Adapters of any layout, each with its strength behind a colon, such as ink.safetensors:0.8; 1 where none is
    given. They are named before the options, after the base model."""
    dtype: Literal["fp16", "bf16", "fp32", "fp8"] = "fp16"
    """Number format of the merged weights; they are added in float32. fp8 is for a .safetensors file alone, as in
    finetune export."""

    def __post_init__(self) -> None:
        refuse(self, (files_given, new_output, folder_or_safetensors, fp8_in_one_file))

    @property
    def adapters(self) -> tuple[tuple[Path, float], ...]:
        """Files with their strengths."""
        return with_strengths(self.files)


RoundedTo = Literal["fp16", "bf16", "fp8", "fp8_scaled", "int8", "nf4"]


@dataclass(frozen=True)
class EffectConfig:
    """Options of `finetune lora effect`."""

    model: ModelConfig
    """The base model, named first before the options, or here."""
    files: tuple[str, ...] = ()
    """Adapters of any layout, as in finetune lora merge. They are only read."""
    formats: tuple[RoundedTo, ...] = ("fp16", "bf16", "fp8", "fp8_scaled", "int8", "nf4")
    """Number formats of the denoiser's weights: fp8 is e4m3 without scales, as ComfyUI casts; fp8_scaled, int8 and nf4
    are those of model.quantization."""

    def __post_init__(self) -> None:
        refuse(self, (files_given, formats_given))

    @property
    def adapters(self) -> tuple[tuple[Path, float], ...]:
        """Files with their strengths."""
        return with_strengths(self.files)


def with_strengths(files: Sequence[str]) -> tuple[tuple[Path, float], ...]:
    """Split each FILE:STRENGTH."""
    found = map(split_strength, files)
    return tuple((Path(path), strength) for path, strength in found)


def formats_given(formats: tuple[RoundedTo, ...]) -> Iterator[str]:
    """Refuse a command without number formats."""
    if not formats:
        yield "formats: missing, expected number formats such as fp8 int8. Give one or more."


Layout = Literal["kohya", "diffusers", "original", "peft"]
Keep = Literal["same", "fp16", "bf16", "fp32"]


@dataclass(frozen=True)
class ConvertConfig:
    """Options of `finetune lora convert`."""

    model: ModelConfig
    """The base model of the file. Its configs alone are read, for the names of its layers."""
    output: Path
    """The new file, or for peft the new folder."""
    to: Layout
    """Layout of sd-scripts (kohya: A1111, Forge, ComfyUI), diffusers, the original model (ComfyUI), or peft."""
    files: tuple[str, ...] = ()
    """The LoRA file, or folder of peft, which is named before the options."""
    dtype: Keep = "same"
    """Number format of the weights."""

    def __post_init__(self) -> None:
        refuse(self, (one_file, new_output, output_of_layout))


@dataclass(frozen=True)
class ExtractConfig:
    """Options of `finetune lora extract`."""

    model: ModelConfig
    """The base model, named second before the options, or here."""
    tuned: str
    """The fine-tuned model, named first before the options: a folder, a Hub id, or a single file."""
    output: Path
    """The new file, or for peft the new folder."""
    tuned_config: Path | None = None
    """Folder with the configs of a tuned model in a single file."""
    to: Layout = "kohya"
    """Layout of the new file, as in finetune lora convert."""
    rank: Annotated[int | None, at_least(1)] = None
    """Rank of every layer."""
    energy: Annotated[float | None, above_zero()] = None
    """Share of each layer's squared singular values to keep, such as 0.95, in place of a rank."""
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Number format of the weights."""

    def __post_init__(self) -> None:
        refuse(self, (new_output, output_of_layout, rank_or_energy))


def rank_or_energy(rank: int | None, energy: float | None) -> Iterator[str]:
    """Refuse a size that is given twice or not at all."""
    if (rank is None) == (energy is None):
        yield "rank: expected one of --rank N and --energy SHARE. Give one of them."
    if energy is not None and energy > 1:
        yield f"energy: got {energy}, expected a share above 0, up to 1."


def one_file(files: tuple[str, ...]) -> Iterator[str]:
    """Refuse anything but one file that exists."""
    if len(files) != 1:
        yield f"files: got {len(files)}, expected one LoRA. Use: finetune lora convert FILE --to LAYOUT ..."
    for file in files:
        yield from adapters_there(Path(file))


def adapters_there(path: Path) -> Iterator[str]:
    """Refuse what does not exist, and folders that peft did not write."""
    if not path.exists():
        yield (
            f"files: no file or folder {path}. Expected a safetensors file, or a folder that peft wrote; a strength is "
            "written behind a colon: FILE:0.8."
        )
    elif path.is_dir() and not any(path.glob("adapter_config.json")) and not any(path.glob("*/adapter_config.json")):
        yield f"files: {path} is a folder, and not one that peft wrote. {instead_of_folder(path)}"


def instead_of_folder(path: Path) -> str:
    """Name the files to give where a run folder was given."""
    found = [*path.glob("*.safetensors"), *path.glob("export/*.safetensors")]
    if not found:
        return "Give a safetensors file."
    return f"Give a file in it: {', '.join(sorted(map(str, found)))}."


def output_of_layout(output: Path, to: Layout) -> Iterator[str]:
    """Refuse a file's name for a folder, and the other way round."""
    if (output.suffix == ".safetensors") == (to == "peft"):
        expected = "a folder, since peft has one per part" if to == "peft" else "a name that ends with .safetensors"
        yield f"output: got {output} with layout {to}, expected {expected}. Choose another name."


def files_given(files: tuple[str, ...]) -> Iterator[str]:
    """Refuse a command without files, and files that do not exist."""
    if not files:
        yield "files: missing, expected the base model and adapters. Use: finetune lora merge BASE FILE ... OPTIONS"
    paths = [Path(file) for file, _ in map(split_strength, files)]
    for given, path in zip(files, paths, strict=True):
        yield from strength_problems("files", given)
        yield from adapters_there(path)
    counted = Counter(path.resolve() for path in paths if path.exists())
    for path in (path for path, num in counted.items() if num > 1):
        yield f"files: {path} is given {counted[path]} times. Give it once, with the sum of the strengths."


def new_output(output: Path) -> Iterator[str]:
    """Refuse to replace what is there."""
    yield from new_output_problems(output)


def folder_or_safetensors(output: Path) -> Iterator[str]:
    """Refuse names of files that are not safetensors, which would become folders."""
    if output.suffix.lower() in OTHER_FILES or (output.suffix.lower() == ".safetensors" != output.suffix):
        yield f"output: got {output}, expected a new folder or a name that ends with .safetensors. Choose one of them."


def fp8_in_one_file(output: Path, dtype: str) -> Iterator[str]:
    """Refuse pipelines in 8 bits, which diffusers would compute in."""
    if dtype == "fp8" and output.suffix != ".safetensors":
        yield f"dtype: got fp8 for the folder {output}, expected it with a .safetensors file. Give one, or use fp16."
