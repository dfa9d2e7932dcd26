import json
from pathlib import Path

import pytest
from tokenizers import models
from transformers import AutoTokenizer, CLIPTokenizer, T5Tokenizer

from finetune.export.pipeline import save_full_pipeline
from finetune.export.tokenizer_files import add_files_for_transformers_4
from finetune.models import family_named
from finetune.models.family import ModelSource
from tests.tiny.flux import save_pipeline as save_flux_pipeline
from tests.tiny.sd import save_pipeline

TEXT = "a RED circle, it's 12:30! naïve"


def test_an_export_has_vocabulary_and_merges_of_the_same_tokenizer(tmp_path: Path) -> None:
    family, source = family_named("sd"), ModelSource(str(save_pipeline(tmp_path / "base", size="micro")))
    save_full_pipeline(family, family.load(source), dtype="fp32", folder=tmp_path / "export", source=source)
    written = tmp_path / "export" / "tokenizer"
    rules = json.loads((written / "tokenizer.json").read_text())["model"]
    assert json.loads((written / "vocab.json").read_text()) == rules["vocab"]
    lines = (written / "merges.txt").read_text().splitlines()
    assert lines[0].startswith("#version") and [line.split(" ") for line in lines[1:]] == rules["merges"]
    own = models.BPE.from_file(str(written / "vocab.json"), str(written / "merges.txt"), end_of_word_suffix="</w>")
    (base,), tokenizer = family.tokenizers(source), family.tokenizers(ModelSource(str(tmp_path / "export")))[0]
    assert tokenizer(TEXT).input_ids == base(TEXT).input_ids
    assert [token.id for token in own.tokenize("circle")] == base("circle", add_special_tokens=False).input_ids


def test_a_token_that_is_in_no_vocabulary_is_listed_beside_it(tmp_path: Path) -> None:
    folder = save_pipeline(tmp_path / "base", size="micro")
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    tokenizer.add_tokens(["<ink>"])
    tokenizer.save_pretrained(folder / "tokenizer")
    add_files_for_transformers_4(folder)
    assert json.loads((folder / "tokenizer" / "added_tokens.json").read_text()) == {"<ink>": len(tokenizer) - 1}
    again = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    assert again("an <ink> fox").input_ids == tokenizer("an <ink> fox").input_ids


@pytest.mark.parametrize("has_spiece", [False, True])
def test_t5_is_named_by_the_class_that_reads_its_file_and_spiece_is_copied(has_spiece: bool, tmp_path: Path) -> None:
    base, export = (save_flux_pipeline(tmp_path / name) for name in ("base", "export"))
    before = T5Tokenizer.from_pretrained(export, subfolder="tokenizer_2")
    if has_spiece:
        (base / "tokenizer_2" / "spiece.model").write_bytes(b"pieces")
    lacking = add_files_for_transformers_4(export, ModelSource(str(base)))
    assert lacking == ([] if has_spiece else ["tokenizer_2"])
    assert json.loads((export / "model_index.json").read_text())["tokenizer_2"] == ["transformers", "T5TokenizerFast"]
    config = json.loads((export / "tokenizer_2" / "tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in config  # transformers 4 takes this list for a dict and fails
    copied = export / "tokenizer_2" / "spiece.model"
    assert copied.exists() == has_spiece
    copied.unlink(missing_ok=True)
    for kind in (T5Tokenizer, AutoTokenizer):
        after = kind.from_pretrained(export, subfolder="tokenizer_2")
        assert after(TEXT).input_ids == before(TEXT).input_ids
        assert after.all_special_tokens == before.all_special_tokens
