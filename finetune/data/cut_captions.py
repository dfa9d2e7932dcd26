"""Captions and prompts that are longer than what the denoiser is told of them."""

from collections.abc import Iterable, Sequence
from typing import Any

from finetune.config import DataConfig, PreviewConfig
from finetune.data.buckets import Bucket
from finetune.data.captions import caption_variants
from finetune.data.dataset import caption_options
from finetune.data.encode import validation_caption
from finetune.data.entries import first_few
from finetune.data.manifest import Record
from finetune.models.base import ModelFamily


def used_captions(
    records: Sequence[Record], buckets: Sequence[Bucket], held_out: Sequence[Bucket], data: DataConfig
) -> set[str]:
    """Returns all captions that a run trains on and scores, in all their orders."""
    trained = [index for bucket in buckets for index in bucket.records]
    options = caption_options(data)
    captions = {text for index in trained for text in caption_variants(records[index].captions, options)}
    return captions | {validation_caption(records[index], data) for bucket in held_out for index in bucket.records}


def cut_warnings(
    family: ModelFamily, tokenizers: Sequence[Any], captions: Iterable[str], preview: PreviewConfig
) -> list[str]:
    """Returns one warning that counts the captions and the prompts of previews that are cut, or nothing."""
    limit = family.prompt_length(tokenizers)
    if limit is None:
        return []
    cut = family.cut_captions(tokenizers, sorted(captions))
    prompts = family.cut_captions(tokenizers, (*preview.prompts, preview.negative_prompt))
    if not cut and not prompts:
        return []
    counts = [f"{len(cut):,} captions"] if cut else []
    counts += [f"{len(prompts):,} prompts of previews"] if prompts else []
    return [
        f"{family.title} reads {limit} tokens of a caption, about {limit * 3 // 4} words. The ends of "
        f"{' and '.join(counts)} are not read: {first_few([shortened(text) for text in cut + prompts])}. Shorten them, "
        "or put what matters first."
    ]


def shortened(text: str) -> str:
    """Returns the beginning of a text, in quotes."""
    return f'"{text[:60]}..."'
