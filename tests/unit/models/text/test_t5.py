import importlib.util
from pathlib import Path

import pytest

from finetune.models.family import ModelSource
from finetune.models.text.t5 import load_t5_tokenizer


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece reads it")
def test_a_vocabulary_of_sentencepiece_alone_names_the_library_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_2").mkdir()
    (tmp_path / "tokenizer_2" / "spiece.model").write_bytes(b"pieces")
    with pytest.raises(ValueError, match=r"tokenizer_2 .* has spiece\.model .*pip install sentencepiece"):
        load_t5_tokenizer(ModelSource(str(tmp_path)), "tokenizer_2")
