from pathlib import Path

import pytest

from finetune.report.data_card import preparation_report, repeated_images, training_images
from finetune.report.gallery import Shown, find_scored, gallery, pairs, shown_keys, with_step
from finetune.report.run import write_report
from finetune.report.scores import read_scores
from finetune.report.strengths import step_galleries, strength_gallery
from tests.support.images import encoded, gradient, listing
from tests.support.scored_run import plain_run, scored_run


def test_the_chosen_step_keeps_a_column_among_many() -> None:
    assert with_step([0, 100, 200, 300], 210, range(400)) == [0, 100, 210, 300]
    assert with_step([0, 100, 200, 300], None, [0]) == [0, 100, 200, 300]
    assert with_step([0, 100], 700, [0, 100]) == [0, 100]  # it was not drawn


def test_every_prompt_has_a_row_before_any_has_two() -> None:
    keys = [(prompt, seed) for prompt in range(16) for seed in range(4)]
    kept = shown_keys(keys)
    assert len(kept) == 24 and {prompt for prompt, _ in kept} == set(range(16)) and kept == sorted(kept)


def test_scored_images_are_in_columns_from_the_base_model_on(tmp_path: Path) -> None:
    shown = find_scored(read_scores(scored_run(tmp_path / "run")))
    made = gallery(shown, chosen=100)
    assert made is not None
    assert made.columns == ["base model", "step 50", "step 100", "step 200"] and made.chosen == 2
    assert [(row.prompt, row.seed, row.kind) for row in made.rows][:3] == [
        ("a lighthouse, ink", 0, "your prompt"),
        ("a lighthouse, ink", 1, "your prompt"),
        ("a boat, ink", 0, "new content"),
    ]
    assert all(image and image.data for row in made.rows for image in row.images)


def test_pairs_show_each_kind_of_prompt_first_and_the_images_at_the_chosen_strength(tmp_path: Path) -> None:
    shown = find_scored(read_scores(scored_run(tmp_path / "run")))
    found = pairs(shown, 200)
    assert [(pair.prompt, pair.seed) for pair in found][:3] == [
        (text, 0) for text in ("a lighthouse, ink", "a boat, ink", "a cup")
    ]
    (key,) = [key for key in shown.shots if key == (1, 1)]
    assert [pair.seed for pair in pairs(shown, 200, {key: shown.shots[key][50]})] == [1]
    assert pairs(shown, 999) == [] and pairs(Shown({}, []), None) == []


def test_strengths_are_columns_by_the_names_of_their_folders(tmp_path: Path) -> None:
    scored = read_scores(scored_run(tmp_path / "run"))
    made = strength_gallery(scored, find_scored(scored))
    assert made is not None and made.chosen == 2 and len(made.rows) == 4
    assert made.columns == ["base model", "strength 0.5", "strength 0.75", "strength 1"]
    assert all(image and image.data for row in made.rows for image in row.images)


def test_every_scored_step_is_shown_at_each_strength_that_it_was_drawn_at(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    scored = read_scores(folder)
    made = dict(step_galleries(scored, find_scored(scored), 100))
    assert list(made) == ["1", "0.75", "0.5"] and len(made["1"].rows) == 6
    for strength in ("0.75", "0.5"):
        weaker = made[strength]
        assert weaker.columns == ["base model", "step 50", "step 100", "step 200"] and weaker.chosen == 2
        assert [(row.prompt, row.seed) for row in weaker.rows] == [("a lighthouse, ink", 0), ("a boat, ink", 0)]
        assert all(image and image.data for row in weaker.rows for image in row.images)
    assert made["0.5"].rows[0].images[0] == made["0.75"].rows[0].images[0] != made["0.5"].rows[0].images[1]
    text = write_report(folder).read_text()
    assert text.count('type="radio"') == 3 and text.count('class="choice"') == 3
    assert 'type="radio"' not in write_report(plain_run(tmp_path / "plain")).read_text()


def test_a_run_that_only_drew_the_base_model_has_nothing_to_compare(tmp_path: Path) -> None:
    folder = plain_run(tmp_path / "run")
    (folder / "previews").mkdir()
    (folder / "previews" / "step_000000_prompt00_seed0.png").write_bytes(encoded(gradient()))
    assert "Before and after" not in write_report(folder).read_text()


def test_a_page_of_a_scored_run_shows_the_images_of_the_strength(tmp_path: Path) -> None:
    text = write_report(scored_run(tmp_path / "run")).read_text()
    assert "<b>Use step 200 at strength 0.75</b>" in text and "<span>step 200 at strength 0.75</span>" in text
    assert "step 200 · chosen" in text and "Strengths of step 200" in text
    assert text.index("Use step 200") < text.index("Before and after") < text.index("Curves")


def test_repeated_images_are_beside_their_training_images(tmp_path: Path) -> None:
    scored = read_scores(scored_run(tmp_path / "run"))
    assert repeated_images(scored, {"": tmp_path}) == []  # the training image is gone
    (tmp_path / "b.png").write_bytes(encoded(gradient()))
    (found,) = repeated_images(scored, {"": tmp_path})
    assert (found.prompt, found.seed, found.training.name) == ("a lighthouse, ink", 1, "b.png") and found.drawn.data
    text = write_report(scored_run(tmp_path / "other", data=str(tmp_path))).read_text()
    assert "Repeated training images" in text and "a lighthouse, ink (seed 1) and b.png" in text
    scored.steps[-1].scores["memorisation"].detail["copies"][0]["training_image"] = "../b.png"
    assert repeated_images(scored, {"": tmp_path / "run"}) == []


def test_training_images_are_those_of_the_listing_without_held_out_ones(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text(
        listing(
            {"file_name": "a.png", "text": "x"},
            {"file_name": "held.png", "text": "x", "split": "validation"},
            {"file_name": "../outside.png", "text": "x"},
            {"file_name": "gone.png", "text": "x"},
        )
        + "torn\n"
    )
    for name in ("a.png", "held.png", "unlisted.png"):
        (tmp_path / name).write_bytes(encoded(gradient()))
    assert [each.name for each in training_images({"": tmp_path})] == ["a.png"]
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "a_mask.png").write_bytes(encoded(gradient()))
    assert [each.name for each in training_images({"": tmp_path})] == ["a.png", "held.png", "unlisted.png"]


@pytest.mark.parametrize("name", ["prepared", "a b#%?", "javascript:alert(1)", "x\udce9"])
def test_the_preparation_is_linked_by_a_relative_address(tmp_path: Path, name: str) -> None:
    assert preparation_report(tmp_path / name, tmp_path / "runs" / "ink" / "report.html") is None
    (tmp_path / name).mkdir()
    (tmp_path / name / "report.html").write_text("")
    found = preparation_report(tmp_path / name, tmp_path / "runs" / "ink" / "report.html")
    assert found is not None and found.startswith("../../") and not set("#?: ") & set(found)
