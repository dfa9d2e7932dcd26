"""Options of the model, the dataset, its cache and the loop; torch-free."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from finetune.config.checks import problems
from finetune.config.facts import (
    ActsWith,
    Count,
    CountOrZero,
    Decay,
    Mark,
    NotNegative,
    OneOf,
    Positive,
    Resume,
    Share,
    at_least,
    not_empty,
)
from finetune.config.folders import TrainingFolder, problems_of_folders

SINGLE_FILE = ".safetensors"

CaptionLines = Literal["alternatives", "joined", "first"]

ADDRESS = re.compile(r"(?:hf://|(?:https?://)?(?:huggingface|hf)\.co/)([\w.-]+/[\w.-]+)/?(.*)|https?://.*")
"""A page of the Hub or of another site, and the id in it."""

PICKLED = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class ModelConfig:
    """The model that is adapted."""

    source: Annotated[str, not_empty("a folder, a Hub id or a single file"), Mark.MODEL]
    """Folder of a diffusers pipeline, a Hub id, or a single .safetensors file with all parts."""
    family: Annotated[str | None, Resume.FOUND] = None
    """Architecture; none finds it in the checkpoint, and one that is not the checkpoint's is refused."""
    revision: Annotated[str | None, Mark.COMMIT] = None
    """Branch, tag or commit of the Hub id."""
    variant: str | None = None
    """Weight variant of the pipeline, e.g. fp16."""
    config: Annotated[Path | None, Mark.MODEL] = None
    """For a single file: folder in diffusers layout of its base model, for configs, tokenizer and scheduler alone."""
    vae: Annotated[str | None, Mark.MODEL] = None
    """Another VAE: folder in diffusers layout (or of a pipeline with one), Hub id, or a single .safetensors file, which
    takes the config of the base model's VAE. Previews and full exports have it, too; a single file without a VAE needs
    one."""
    without: Annotated[tuple[str, ...], Resume.FIXED] = ()
    """Parts of the checkpoint to omit for the memory they take, where the family can do without them, e.g.
    text_encoder_3; full exports lack them too."""

    quantization: Literal["none", "int8", "nf4", "fp8"] = "none"
    """Keep the frozen linear layers of the denoiser's blocks in 8 bits (int8, arXiv 2208.07339; fp8 e4m3, arXiv
    2209.05433) or 4 (nf4, QLoRA, arXiv 2305.14314) while adapters or tokens train beside them."""
    double_quantization: Annotated[bool, ActsWith("quantization", "nf4")] = True
    """Keep the scales of nf4's blocks in 8 bits, too: 4.13 instead of 4.5 bits per weight."""
    offload: bool = False
    """Keep the frozen linear layers of the denoiser's blocks, quantised or not, in host memory. Each is copied to the
    device for its products, in the forward and in the backward pass: slower, with the memory of one at a time."""

    def problems(self) -> list[str]:
        name = Path(self.source).name
        if self.source.lower().endswith(PICKLED):
            return [
                f"model.source: {name} is a pickle, which runs whatever code it holds when it is read; expected "
                f'safetensors. Where you trust it: save_file(torch.load("{name}", weights_only=True)["state_dict"], '
                '"model.safetensors"), with save_file from safetensors.torch, and give that file.'
            ]
        if self.source.lower().endswith(".gguf"):
            return [
                f"model.source: {name} is a GGUF file, whose weights are quantised for drawing alone. Give the "
                "original model in fp16, bf16 or fp32; --model.quantization nf4 holds it in 4 bits."
            ]
        if address := ADDRESS.fullmatch(self.source):
            used = f"Use {address[1]}" if address[1] and not address[2] else "Download the file and give its path"
            return [f"model.source: got the address {self.source}, expected a folder, a Hub id or a file. {used}."]
        if Path(self.source).is_file() and not self.source.endswith(SINGLE_FILE):
            return [
                f"model.source: {name} is a file of another kind, expected a folder in diffusers layout, a Hub id, or "
                f"a {SINGLE_FILE} file with all parts of a base model."
            ]
        if self.vae is not None and (not self.vae or self.vae.endswith(PICKLED)):
            return [
                f'model.vae: got "{self.vae}", expected a folder, a Hub id or a {SINGLE_FILE} file. A pickle runs '
                "whatever code it holds; where you trust it, save its weights as safetensors."
            ]
        is_file = self.source.endswith(SINGLE_FILE)
        found = [
            f"model.{key}: got {value} for the single file {name}, which has none. Remove it."
            for key, value in (("revision", self.revision), ("variant", self.variant))
            if is_file and value is not None
        ]
        if self.config is not None and not is_file:
            found.append(f"model.config: got {self.config}, but model.source is not a {SINGLE_FILE} file. Remove it.")
        return found


@dataclass(frozen=True)
class DataConfig:
    """Images and captions."""

    folder: Annotated[str | None, not_empty("a folder or a Hub dataset id"), OneOf("folders"), Mark.READ] = None
    """Prepared folder with metadata.jsonl, folder of images with .txt captions, Hub dataset id, or URL of Parquet
    tables or WebDataset archives (s3://bucket/folder)."""
    folders: tuple[TrainingFolder, ...] = ()
    """Several folders instead of data.folder, each as a path or with options of its own, as in "{folder: a,
    repeats: 10}"; docs/datasets.md lists them."""
    image_column: str = "image"
    """Column of the images in a Hub dataset."""
    caption_column: str = "text"
    """Column of the captions in metadata.jsonl or a Hub dataset; the names of class labels are captions too."""
    captions: Literal["listed", "folder", "none"] = "listed"
    """Where captions come from: listed with the images, the name of the image's folder (its class), or none, for a
    model without prompts."""
    caption_lines: Annotated[CaptionLines | None, ActsWith("captions", "listed"), Resume.FREE] = None
    """What several lines of a caption file are: captions to draw from, one caption, or a caption and notes below it;
    none is alternatives, but refuses paragraphs and wrapped sentences."""
    keep_rating: Annotated[bool, ActsWith("captions", "listed"), Resume.FREE] = False
    """Keep a gallery's rating among the tags, and that beside them in JSON as the last: rating:explicit. Else it is
    omitted, with a warning."""
    folder_repeats: Annotated[Literal["auto", "on", "off"], Resume.FREE] = "auto"
    """Repeat the images of a folder called 10_NAME ten times in a pass; auto decides by the names of all folders and
    refuses names that leave it open."""
    resolution: Annotated[int, at_least(8, "pixels")] = 512
    """Side of the square whose area every bucket stays within, in pixels."""
    bucket_step: int = 64
    """Bucket sides are multiples of this many pixels."""
    max_aspect: Annotated[float, at_least(1)] = 2.0
    """Longest over shortest side of the widest bucket; 1 allows only squares."""
    upscale: bool = True
    """Enlarge images that are smaller than their bucket; false trains each of them at a smaller one that it fills."""
    crop: Literal["center", "random"] = "center"
    """Where an image is cut to its bucket; random draws among num_crops fixed places, so they can be cached."""
    num_crops: Count = 4
    """Places that crop=random draws from, per image."""
    flip: bool = False
    """Mirror half of the samples."""
    caption_dropout: Share = 0.1
    """Share of samples trained on the empty prompt, which classifier-free guidance needs."""
    trigger: Annotated[str | None, Mark.PROMPT] = None
    """Words for what is learned: they replace [trigger] and [name] in captions, and come first in captions that have
    neither these nor the words."""
    expand_syntax: bool = False
    """Take {a|b} in captions for a choice, each of which is a caption to draw from, (word:1.2) for the word, and an
    escaped \\( for the sign; off trains on such text as it is, with a warning."""
    template: Annotated[str, Mark.PROMPT] = "{caption}"
    """Text around every caption, e.g. "{caption}, ink style"; {caption} is replaced by the caption, and may be absent
    where data.captions is none."""
    shuffle_tags: bool = False
    """Shuffle the comma-separated tags of a caption."""
    keep_tags: Annotated[CountOrZero, ActsWith("shuffle_tags", True)] = 0
    """The first tags that shuffling leaves in place."""
    num_shuffles: Count = 4
    """Orders that shuffle_tags draws from, per caption; fixed, so they can be cached."""
    num_workers: Annotated[CountOrZero, Resume.FREE] = 0
    """Processes that read images or cached latents ahead; 0 reads in the training process."""
    follow_links: Annotated[bool, Resume.FREE] = False
    """Read files that links lead to outside the folder; otherwise they are refused, since their captions would end up
    in the export."""
    allow_change: Annotated[bool, Resume.FREE] = False
    """Resume although images or captions changed since the checkpoint was written."""

    def problems(self) -> Iterator[str]:
        if self.bucket_step < 1 or self.resolution % self.bucket_step:
            yield f"data.bucket_step: got {self.bucket_step}, expected a divisor of resolution {self.resolution}."
        if "{caption}" not in self.template and self.captions != "none":
            yield f'data.template: got "{self.template}", expected a text that contains {{caption}}.'
        for number, each in enumerate(self.folders):
            yield from problems(each, f"data.folders[{number}]")
        if self.folders:
            yield from problems_of_folders(self.folders, self.bucket_step, self.template)


@dataclass(frozen=True)
class CacheConfig:
    """Images and captions that are encoded once and kept on disk."""

    latents: bool = True
    """Keep the VAE's latents; off encodes every image again at every step."""
    text: bool = True
    """Keep the text encoder's embeddings; cannot be on while the text encoder is trained, does nothing while tokens
    are."""
    folder: Path | None = None
    """Folder of the caches; none means ~/.cache/sd-finetune (or $XDG_CACHE_HOME). Runs can share it."""
    max_gb: Positive | None = None
    """Most that the folder may hold, in 10^9 bytes; a run whose latents would make it larger is refused before it
    encodes one. None sets no limit."""
    shard_size: Count = 256
    """Entries per file."""

    @property
    def place(self) -> Path:
        """The folder that is used."""
        usual = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return self.folder or Path(usual) / "sd-finetune"


@dataclass(frozen=True)
class LoopConfig:
    """The training loop."""

    steps: Annotated[Count, Resume.MAY_GROW, Mark.PROPOSED] = 1000
    """Optimizer steps; train.epochs says them as passes over the images."""
    epochs: Annotated[Positive | None, Resume.FREE] = None
    """Passes over the images, each as often as its repeats, instead of train.steps, which they become before a model
    loads. A run that is continued with the same number keeps its steps."""
    batch_size: Count = 1
    """Images per process and forward pass."""
    accumulation: Count = 1
    """Forward passes per optimizer step; one step sees batch_size x accumulation x processes images."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more time for less memory."""
    compile: Literal["none", "blocks"] = "none"
    """Compile the training steps of the denoiser's repeated blocks (torch.compile), which share their code. The first
    steps take longer, and so does the first of every size of images; validation, previews and scores are not compiled.
    Numbers differ by rounding."""
    channels_last: bool = False
    """Store the weights of a U-Net's convolutions with their channels last, which is faster on GPUs in 16 bits. Numbers
    differ by rounding."""
    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = "auto"
    """The kernel of attention in training steps; auto lets torch choose. Numbers differ by rounding."""
    tf32: bool = False
    """Compute float32 products of matrices in TF32, on GPUs that have it. Convolutions already do, as torch has it."""
    peak_tflops: Annotated[Positive | None, Resume.FREE] = None
    """What a device computes at most, in TFLOP/s, of which mfu in metrics.jsonl is a share; none takes the data sheet's
    for GPUs that are known, and logs no mfu on others."""
    max_grad_norm: NotNegative = 1.0
    """Largest norm of the gradients, which are scaled down to it; 0 turns this off."""
    text_encoder: Annotated[bool, Resume.FIXED] = False
    """Train the text encoder too."""
    text_encoder_steps: Annotated[int | None, at_least(1, hint="train.text_encoder false never trains it")] = None
    """Steps after which a trained text encoder is frozen; none trains it to the end."""
    ema_decay: Annotated[Decay | None, Resume.FIXED] = None
    """Decay of the exponential moving average of the weights, which is then what is validated and exported."""
    ema_device: Annotated[Literal["same", "cpu"], Resume.FREE] = "same"
    """Where the average is kept: beside the weights, or in host memory, followed while the next step is computed."""
    log_every: Count = 10
    """Steps between two lines of metrics.jsonl."""
    timeout_seconds: Annotated[Count, Resume.FREE] = 600
    """Seconds after which the run ends if a process does not respond, or an exchange in a step does not end; a process
    that works alone, as in an export, may take longer."""
