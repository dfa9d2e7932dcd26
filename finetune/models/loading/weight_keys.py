"""Compare the weights of a file with its model's, name by name. Harmless extra weights are listed here."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypedDict

from diffusers import AutoencoderKL
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from finetune.files import may_read, not_permitted
from finetune.models.loading.other_sources import SHOWN, first
from finetune.models.loading.part_files import PartFiles, weight_files, weight_map

TEXT_EXTRAS = (
    r"position_ids$",  # the numbers 0, 1, 2, ..., which older versions stored
    r"logit_scale$",  # of CLIP's contrastive loss
    r"attn_mask$",  # causal, and built by the model itself
    r"(^|\.)text_projection(\.weight)?$",  # where the model reads hidden states alone
    r"^vision_model\.|^visual_projection\.",  # the other half of a whole CLIP
    r"^decoder\.|^lm_head\.",  # the other half of a whole T5
)
VAE_EXTRAS = (r"^(first_stage_model\.|vae\.)?(loss|model_ema)\.",)  # its discriminator, and the average it was made of
Mismatch = tuple[str, Sequence[int], Sequence[int]]
"""A weight with its stored shape and the model's."""


class LoadingInfo(TypedDict):
    """The differing weights that diffusers and transformers report."""

    missing_keys: Iterable[str]
    unexpected_keys: Iterable[str]
    mismatched_keys: Iterable[Mismatch]


def harmless(kind: type) -> Callable[[str], bool]:
    """Return a test for harmless names beyond the model's."""
    patterns = ()
    if issubclass(kind, PreTrainedModel):
        patterns = TEXT_EXTRAS
    elif issubclass(kind, AutoencoderKL):
        patterns = VAE_EXTRAS
    return lambda name: any(re.search(pattern, name) for pattern in patterns)


def weight_differences(
    kind: type, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[Mismatch] = ()
) -> str | None:
    """Describe how a file's weights differ from the model's, or None."""
    is_harmless = harmless(kind)
    lacking, extra = sorted(missing), sorted(name for name in unexpected if not is_harmless(name))
    found = []
    if lacking:
        found.append(f"lacks {first(lacking)}")
    if extra:
        found.append(f"holds {first(extra)}, which the model of its config does not have")
    found += [
        f"holds {name} of the shape {tuple(stored)}, expected {tuple(expected)}"
        for name, stored, expected in sorted(mismatched)[:SHOWN]
    ]
    return " and ".join(found) or None


def refuse_gaps(kind: type, info: LoadingInfo, files: PartFiles, location: str, part: str) -> None:
    """Raise ValueError if diffusers or transformers loaded other weights."""
    text = weight_differences(kind, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    if text is not None:
        raise ValueError(
            f"model.source: {weights_name(files, part)} of {location} {text}. Download the model again, or convert it "
            f"again with the {PurePosixPath(part, 'config.json')} that belongs to it."
        )


def refuse_other_shards(files: PartFiles, location: str, part: str) -> None:
    """Refuse files that do not match their index. diffusers fills weights that they lack at random."""
    index = weights_name(files, part)
    if not index.endswith(".json"):
        return
    listed = weight_map(files.root / index)
    for shard in sorted(set(listed.values())):
        name, path = PurePosixPath(part, shard), files.root / part / shard
        if not path.is_file():
            raise ValueError(f"model.source: {location} has no file {name}, which {index} names. Download it again.")
        with opened(path, str(path)) as file:
            lacking = sorted({weight for weight in listed if listed[weight] == shard}.difference(file.keys()))
        if lacking:
            raise ValueError(
                f"model.source: {name} of {location} lacks {first(lacking)}, which {index} lists in it. "
                "Download both again, or convert the model again."
            )


@contextmanager
def opened(path: Path, shown: str) -> Iterator[safe_open]:
    """Open a safetensors file. Raises ValueError, which names it as `shown`, where it is damaged."""
    if not may_read(path):
        raise not_permitted(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"model.source: {shown} is not an intact safetensors file ({error}). Download it again."
        ) from error


def weights_name(files: PartFiles, part: str) -> str:
    """Return a part's weights file, index of several, or ""."""
    found = [str(PurePosixPath(part, path.name)) for path in (files.root / part).glob("*")]
    read = sorted(weight_files(found, part, files.variant))
    index = [name for name in read if name.endswith(".json")]
    return next(iter(index or read), "")
