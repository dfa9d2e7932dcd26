import json
from pathlib import Path

import pytest

from finetune.compare.judge import different_data, different_options, incomparable, judged, other_losses
from finetune.compare.runs import read_runs
from tests.support.scored_run import plain_run, scored_run, write_lines


def change_rows(folder: Path, **values: object) -> None:
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    write_lines(folder / "scores.jsonl", [row | values for row in rows])


def test_runs_of_another_base_model_grid_or_features_are_named_with_the_reason(tmp_path: Path) -> None:
    folders = [scored_run(tmp_path / name) for name in ("a", "b", "c")]
    folders.append(scored_run(tmp_path / "base", base="c" * 64))
    folders.append(scored_run(tmp_path / "grid", prompts=(("another", "user"), ("x", "user"), ("y", "neutral"))))
    folders.append(scored_run(tmp_path / "features"))
    change_rows(folders[-1], features={"style": "DINOv2"})
    folders.append(plain_run(tmp_path / "plain"))
    reasons = incomparable(read_runs(folders))
    assert [reasons[name] for name in ("a", "b", "c")] == [[], [], []]
    assert "another base model" in reasons["base"][0]
    assert reasons["grid"] == ["another grid of prompts and seeds"]
    assert reasons["features"] == ["images compared by other features"]
    assert reasons["plain"] == ["not scored"]


def test_the_best_of_the_comparable_runs_is_what_others_are_measured_against(tmp_path: Path) -> None:
    styles = {"a": {50: 0.5, 100: 0.6, 200: 0.7}, "b": {50: 0.5, 100: 0.6, 200: 0.8}}
    folders = [scored_run(tmp_path / name, style=style) for name, style in styles.items()]
    folders.append(scored_run(tmp_path / "base", base="c" * 64, style={50: 0.5, 100: 0.6, 200: 0.99}))
    first, second, third = judged(read_runs(folders))
    assert second.is_best and second.words == "highest" and not third.is_comparable and third.words == ""
    assert first.against_best is not None and first.against_best.value == pytest.approx(-0.1)
    assert first.words == "-0.100 to -0.100"  # cell by cell the two differ by as much everywhere


def test_a_difference_within_its_interval_is_not_shown_as_one(tmp_path: Path) -> None:
    folders = [scored_run(tmp_path / name) for name in ("a", "b")]
    rows = [json.loads(line) for line in (folders[0] / "scores.jsonl").read_text().splitlines()]
    for row in rows:
        score = row["scores"]["style"]
        score["cells"] = [[cell + 0.3 * (-1) ** (place + other) for other, cell in enumerate(cells)]
                          for place, cells in enumerate(score["cells"])]  # fmt: skip
        score["value"] -= 0.001
    write_lines(folders[0] / "scores.jsonl", rows)
    assert [each.words for each in judged(read_runs(folders))] == ["no difference shows", "highest"]


def test_only_options_and_data_that_differ_are_listed(tmp_path: Path) -> None:
    folders = [plain_run(tmp_path / "a", lr="1e-4"), plain_run(tmp_path / "b", lr="2e-4", data="prepared/other")]
    runs = read_runs(folders)
    assert different_options(runs).rows == [
        ("data.folder", ["prepared/ink", "prepared/other"]),
        ("optim.lr", ["1e-4", "2e-4"]),
    ]
    assert [name for name, _ in different_data(runs).rows] == ["location", "fingerprint"]
    assert different_options([runs[0], runs[0]]).rows == [] == different_data([runs[0], runs[0]]).rows


def test_losses_on_other_images_are_told(tmp_path: Path) -> None:
    folders = [plain_run(tmp_path / name) for name in ("a", "b")]
    assert other_losses(read_runs(folders)) == []
    folders.append(plain_run(tmp_path / "c", data="prepared/other"))
    (note,) = other_losses(read_runs(folders))
    assert note.startswith("Validation losses of c are on other images")
    folders.append(plain_run(tmp_path / "d", base="c" * 64))
    assert any(note.startswith("Losses of d") for note in other_losses(read_runs(folders)))
