import pytest

from finetune.data.captions.columns import caption_column_of, likely_columns, missing_column


@pytest.mark.parametrize(
    ("there", "column"),
    [
        (("image", "text", "caption"), "text"),
        (("image", "caption", "prompt"), "caption"),
        (("image", "prompt"), "prompt"),
        (("image", "text_prompt", "negative_prompt", "captions_alt"), "text_prompt"),
        (("image", "prompt", "text_prompt"), "text"),
        (("image", "prompt", "edit_prompt"), "text"),
        (("image", "prompt", "description"), "text"),
        (("image", "long_caption"), "text"),
        (("image", "objects", "label"), "text"),
    ],
)
def test_the_column_with_the_captions_is_chosen_only_where_no_other_may_be(there: tuple[str, ...], column: str) -> None:
    assert caption_column_of(there, "text") == column
    assert caption_column_of(there, "id") == "id"


def test_columns_that_may_have_captions_are_known_by_their_names() -> None:
    names = ("image", "long_caption", "negative_prompt", "tags", "tag_id", "caption_sources", "label", "objects")
    assert likely_columns(names) == ["long_caption", "tags", "tag_id"]


def test_columns_of_an_object_detector_are_not_offered() -> None:
    message = missing_column("data.caption_column", "text", "d/metadata.jsonl", ["file_name", "objects"])
    assert "Set data.caption_column to the one with the captions. It is not objects" in message
    assert "object detector" not in missing_column("data.caption_column", "text", "d", ["file_name", "title"])
