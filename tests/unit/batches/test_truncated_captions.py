from pathlib import Path

import pytest

from finetune.batches.truncated_captions import cut_warnings
from finetune.config.outputs import PreviewConfig
from finetune.models.families.sd import StableDiffusion
from finetune.models.families.sd3 import StableDiffusion3
from finetune.models.family import ModelSource
from tests.tiny.sd import train_tokenizer
from tests.tiny.sd3 import save_pipeline

SHORT, LONG, LONGER = "a red circle", "1234567890" * 10, "a blue cross " * 120
PREVIEW = PreviewConfig(prompts=(SHORT, LONGER))


@pytest.mark.parametrize(
    ("without", "limit", "counted"),
    [((), 255, "1 caption and 1 preview prompt"), (("text_encoder_3",), 75, "2 captions and 1 preview prompt")],
)
def test_one_warning_counts_captions_and_prompts_of_which_nothing_reads_the_end(
    tmp_path: Path, without: tuple[str, ...], limit: int, counted: str
) -> None:
    """T5 reads more than CLIP, so only its length counts."""
    family = StableDiffusion3()
    tokenizers = family.tokenizers(ModelSource(str(save_pipeline(tmp_path / "model")), without=without))
    (warning,) = cut_warnings(family, tokenizers, [LONGER, SHORT, LONG], PREVIEW)
    assert f"{limit} tokens" in warning and counted in warning and "a blue cross" in warning
    assert cut_warnings(family, tokenizers, [SHORT], PreviewConfig()) == []


def test_a_family_that_reads_all_warns_of_nothing() -> None:
    assert cut_warnings(StableDiffusion(), [train_tokenizer()], [LONGER], PREVIEW) == []
