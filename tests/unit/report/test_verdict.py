import json
import shutil
from pathlib import Path

import pytest

from finetune.report.rows import read_rows
from finetune.report.run import write_report
from finetune.report.scores import Scored, read_scores
from finetune.report.usage import find_exported
from finetune.report.verdict import Verdict, verdict
from tests.support.scored_run import plain_run, scored_run, write_export, write_lines, write_metrics


def read(folder: Path) -> Verdict:
    rows, _ = read_rows(folder / "metrics.jsonl")
    return verdict(folder, read_scores(folder), rows, find_exported(folder), ["a warning of the data"])


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_choice_comes_with_its_strength_reason_and_runner_up(tmp_path: Path) -> None:
    found = read(scored_run(tmp_path / "run"))
    assert found.headline == "Use step 200 at strength 0.75"
    assert found.reasons[:2] == ["Step 200 has style likeness 0.800.", "Beyond 1 adherence falls."]
    assert {("runner-up", "step 100"), ("usable strengths", "0.5 to 1"), ("exported", "step 200")} <= set(found.facts)
    assert found.warnings[0] == "few images" and found.warnings[-1] == "a warning of the data"


def test_a_validation_loss_that_disagrees_is_told(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    assert any("lowest at step 100" in text and "the scores decide" in text for text in read(folder).reasons)
    write_metrics(folder, lowest=200)
    assert not any("lowest" in text for text in read(folder).reasons)
    rows = [{"step": 100, "validation/loss": 0.3}, {"step": 200, "validation/loss": 0.301}]
    write_lines(folder / "metrics.jsonl", rows)
    assert not any("lowest" in text for text in read(folder).reasons)  # as good as equal


def test_repeated_training_images_are_named(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    assert "Step 200 repeats training images: b.png." in read(folder).warnings
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    for row in rows:
        row["scores"]["memorisation"]["low"] = 0.04  # below the false alarms
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not any("repeats" in text for text in read(folder).warnings)


def test_an_export_of_another_step_is_warned_of(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    write_export(folder / "export", 50)
    assert any("export/ has step 50, not step 200, which is chosen." in text for text in read(folder).warnings)


def test_strengths_of_a_step_that_is_not_chosen_are_not_its_own(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    best = json.loads((folder / "best.json").read_text())
    change(folder / "best.json", strengths=best["strengths"] | {"step": 50}, exported_step=50)
    assert read(folder).headline == "Use step 200"
    change(folder / "best.json", strengths=best["strengths"] | {"best": None, "usable": None})
    assert read(folder).headline == "Use step 200"


def test_a_run_without_scores_says_how_to_score_it(tmp_path: Path) -> None:
    folder = plain_run(tmp_path / "a run")
    found = read(folder)
    assert found.headline == "Not scored; validation loss was lowest at step 100"
    assert found.command == f"finetune evaluate '{folder}' --output '{folder}-scores'"
    shutil.rmtree(folder / "export")
    assert read(folder).command == ""  # nothing that it could score


def test_a_run_that_ended_early_says_so(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    config = (folder / "config.yaml").read_text()
    for patience, steps, is_told in ((3, 800, True), (3, 200, False), (0, 800, False)):
        (folder / "config.yaml").write_text(f"{config}train:\n  steps: {steps}\nevaluate:\n  patience: {patience}\n")
        text = "Training ended early, after step 200 of 800: 3 later checkpoints"
        assert (text in write_report(folder).read_text()) == is_told


def test_scores_without_a_choice_are_not_called_one(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    (folder / "best.json").unlink()
    assert read(folder).headline == "No step is chosen"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"step": "x", "strengths": 3, "warnings": 1, "runner_up": []}'])
def test_a_best_json_of_any_content_gives_a_verdict(tmp_path: Path, text: str) -> None:
    folder = scored_run(tmp_path / "run")
    (folder / "best.json").write_text(text)
    assert read(folder).headline


@pytest.mark.parametrize("key", ["target", "reason", "runner_up", "strengths", "goal", "rule", "warnings"])
def test_single_keys_of_best_json_may_be_missing(tmp_path: Path, key: str) -> None:
    folder = scored_run(tmp_path / "run")
    best = json.loads((folder / "best.json").read_text())
    del best[key]
    (folder / "best.json").write_text(json.dumps(best))
    assert read(folder).headline.startswith("Use step 200")


def test_damaged_lines_and_folders_outside_are_left_out(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    lines = (folder / "scores.jsonl").read_text().splitlines()
    row = json.loads(lines[0]) | {
        "step": 70,
        "target": "t",
        "images": "../elsewhere",
        "scores": {"style": 0.5, "b": "x"},
    }
    (tmp_path / "elsewhere").mkdir()
    (folder / "scores.jsonl").write_text("\n".join([*lines, json.dumps(row), "7", "{torn"]))
    scored = read_scores(folder)
    assert [each.step for each in scored.steps] == [50, 70, 100, 200] and scored.num_broken == 2
    assert scored.steps[1].images is None and scored.steps[1].scores["style"].value == 0.5
    change(folder / "grid.json", prompts="x", seeds=None, base_images="/etc")
    assert (read_scores(folder).prompts, read_scores(folder).base_images) == ([], None)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"step": 1' + "0" * 400 + "}", '{"step": NaN, "warnings": {}}'])
def test_json_that_nobody_writes_gives_a_page(tmp_path: Path, text: str) -> None:
    folder = scored_run(tmp_path / "run")
    for name in ("best.json", "grid.json", "data_card.json", "scores.jsonl", "metrics.jsonl", "previews/previews.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "scored" / "base" / "prompt00_seed0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    assert "</html>" in write_report(folder).read_text()


def test_a_folder_without_scores_is_empty(tmp_path: Path) -> None:
    assert read_scores(tmp_path) == Scored([], [], None, [], None)
