"""Captions and prompts that are longer than the denoiser reads."""

from collections.abc import Iterable, Sequence

from finetune.config.outputs import PreviewConfig
from finetune.models.family import ModelFamily
from finetune.models.interfaces import Tokenizer
from finetune.plurals import first_few, plural


def cut_warnings(
    family: ModelFamily, tokenizers: Sequence[Tokenizer], captions: Iterable[str], preview: PreviewConfig
) -> list[str]:
    """Warn once of captions and prompts of previews that are cut."""
    if (limit := family.prompt_length(tokenizers)) is None:
        return []
    cut = family.cut_captions(tokenizers, sorted(set(captions)))
    read = [text for options in preview.read_prompts(0) for text in (options.prompt, options.negative_prompt or "")]
    prompts = family.cut_captions(tokenizers, list(dict.fromkeys(read))) if read else []
    if not cut and not prompts:
        return []
    ends = first_few([f'"{text[:60]}..."' for text in cut + prompts])
    counts = [plural(len(cut), "caption")] if cut else []
    counts += [plural(len(prompts), "preview prompt")] if prompts else []
    return [
        f"{family.title} reads {limit} tokens of a caption, about {limit * 3 // 4} words. The ends of "
        f"{' and '.join(counts)} are not read: {ends}. Shorten them, or put what matters first."
    ]
