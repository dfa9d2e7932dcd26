from pathlib import Path

import pytest

from datasets_prep.captions.tags import TagEdits, count_tags, listed_captions
from datasets_prep.config import TagsConfig
from tests.support.images import listing

SENTENCES = "There is a cat, a dog. They sit, all day."
TAGS = "1girl, long_hair, cat_ears, animal ears, highres, ^_^"


@pytest.mark.parametrize(
    ("config", "caption", "result"),
    [
        (TagsConfig(), TAGS, TAGS),
        (TagsConfig(underscores="spaces"), TAGS, "1girl, long hair, cat ears, animal ears, highres, ^_^"),
        (TagsConfig(drop=("Highres", "long hair")), TAGS, "1girl, cat_ears, animal ears, ^_^"),
        (TagsConfig(replace=("long hair=hair", "^_^=")), TAGS, "1girl, hair, cat_ears, animal ears, highres"),
        (TagsConfig(implied=("cat ears=animal ears",)), TAGS, "1girl, long_hair, cat_ears, highres, ^_^"),
        (TagsConfig(implied=("cat=animal",), implications="add"), "solo, cat, day", "solo, cat, day, animal"),
        (TagsConfig(sort="alphabet"), "b, C, a_b, b", "a_b, b, C"),
        (TagsConfig(drop=("highres",)), "highres", ""),
        (TagsConfig(drop=("a cat",)), SENTENCES, SENTENCES),
        (TagsConfig(drop=("a cat on a mat",)), "a cat on a mat", "a cat on a mat"),
    ],
)  # fmt: skip
def test_tags_are_changed_and_sentences_are_not(config: TagsConfig, caption: str, result: str) -> None:
    assert TagEdits.from_config(config).applied(caption) == result


def test_adding_implied_tags_needs_some() -> None:
    assert "tags.implied" in TagsConfig(implications="add").problems()[0]


def test_tags_of_a_prepared_folder_are_counted(tmp_path: Path) -> None:
    rows = (
        {"text": TAGS, "captions_alt": ["Long hair, day, solo"]},
        {"text": "A cat sits on a mat. It is red, and big, too."},
    )
    (tmp_path / "metadata.jsonl").write_text(listing(*rows))
    counts = count_tags(listed_captions(tmp_path))
    assert counts["long hair"] == 2 and counts["day"] == 1 and "a dog" not in counts
    with pytest.raises(FileNotFoundError, match=r"tags: there is no .*metadata\.jsonl"):
        list(listed_captions(tmp_path / "gone"))
