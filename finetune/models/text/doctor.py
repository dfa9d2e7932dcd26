"""`finetune doctor`: looks into a model."""

from pathlib import Path

from finetune.config.checks import problems
from finetune.config.sections import ModelConfig
from finetune.models import family_named, refuse_unknown_family


def tokens_text(model: ModelConfig, num: int) -> str:
    """Return one line per rare token of a model, with the reason."""
    if wrong := [*problems(model, "model"), *([] if num > 0 else [f"num: got {num}, expected 1 or more."])]:
        raise ValueError("\n".join(wrong))
    refuse_unknown_family(model.family)
    from finetune.models.family import ModelSource
    from finetune.models.loading.components import find_family
    from finetune.models.text.rare_tokens import embedding_lengths, rare_tokens

    source = ModelSource.from_config(model)
    tokenizer = family_named(find_family(source, model.family)).tokenizers(source)[0]
    found = rare_tokens(tokenizer, num, embedding_lengths(Path(model.source)))
    if not found:
        return f"The tokenizer of {model.source} has no rare words of three or four letters without a vowel."
    lines = "\n".join(f"  {token.text:<5} {token.reason}" for token in found)
    advice = "This is only about spelling. Draw a word with the base model before you choose it."
    return f"Rare words to call a subject by:\n{lines}\n{advice}"
