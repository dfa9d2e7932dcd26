import pytest

from finetune.config.outputs import PreviewConfig
from finetune.config.recipes import TokensConfig
from finetune.config.sections import DataConfig
from finetune.data.captions.tokens import check_token_captions
from finetune.data.manifest import Manifest, Record
from finetune.data.visible_files import FolderSource

TOKENS = TokensConfig(names=("<ink>", "<wash>"))


def manifest_of(*captions: tuple[str, ...]) -> Manifest:
    records = tuple(Record(f"{number}.png", texts, 8, 8, "") for number, texts in enumerate(captions))
    return Manifest(records, FolderSource(""), "pictures", warnings=("seen before",))


def test_a_token_in_no_caption_is_refused_with_a_template_that_would_do() -> None:
    words = r"no caption of pictures \(2 in all\) contains <wash>.*data.template"
    with pytest.raises(ValueError, match=words) as caught:
        check_token_captions(manifest_of(("a <ink>",), ("b",)), TOKENS, DataConfig("x"), PreviewConfig())
    assert "<ink>" not in str(caught.value).split("contains")[1].split(",")[0]


def test_captions_and_previews_without_a_token_are_counted_in_one_warning_each() -> None:
    manifest = manifest_of(("a <ink>", "a"), ("b <wash>",), ("c",))
    preview = PreviewConfig(prompts=("a <ink> cat", "a cat"))
    checked = check_token_captions(manifest, TOKENS, DataConfig("x"), preview)
    assert checked.records == manifest.records
    before, captions, prompts = checked.warnings
    assert before == "seen before"
    assert "(2 of 4): 0.png, 2.png" in captions
    assert "(1): a cat" in prompts


def test_the_template_counts() -> None:
    data = DataConfig("x", template="{caption} in <ink> and <wash>")
    assert check_token_captions(manifest_of(("a",)), TOKENS, data, PreviewConfig()).warnings == ("seen before",)


def test_the_case_of_a_token_matters() -> None:
    """diffusers finds upper case too, but gives it the first vector alone."""
    with pytest.raises(ValueError, match="lower case"):
        check_token_captions(manifest_of(("a <Ink>, <WASH>",)), TOKENS, DataConfig("x"), PreviewConfig())
