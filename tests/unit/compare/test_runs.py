import json
from pathlib import Path

import pytest

from finetune.compare.page import galleries
from finetune.compare.runs import names_of, read_runs
from tests.support.scored_run import draw_grid, plain_run, scored_run, write_lines


def test_a_run_is_known_by_as_little_of_its_path_as_tells_it_from_the_others(tmp_path: Path) -> None:
    assert names_of([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert names_of([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["a"], "expected two or more"),
        (["a", "a"], "2 times"),
        (["a", "empty"], "not a run folder"),
        (["a", "gone"], "gone"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, names: list[str], word: str) -> None:
    plain_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=word):
        read_runs([tmp_path / name for name in names])


def test_scores_of_an_evaluation_are_those_of_the_runs_that_it_names(tmp_path: Path) -> None:
    folders = [plain_run(tmp_path / name) for name in ("a", "b", "c")]
    scored = scored_run(tmp_path / "scores")
    rows = [json.loads(line) for line in (scored / "scores.jsonl").read_text().splitlines()]
    for row, name in zip(rows, ("a", "b"), strict=False):
        row |= {"step": 200, "target": name}
    write_lines(scored / "scores.jsonl", rows[:2])
    runs = read_runs(folders, [scored])
    assert [run.step and run.step.target for run in runs] == ["a", "b", None]
    assert runs[0].scored.choice is None  # that of the evaluation is between the runs
    assert runs[0].images(200)["a boat, ink", 1] == scored / "scored" / "step_000050" / "prompt01_seed1.png"
    with pytest.raises(ValueError, match=r"no scores\.jsonl"):
        read_runs(folders, [folders[0]])


def test_the_same_prompts_and_seeds_are_also_shown_at_the_chosen_strength_of_each_run(tmp_path: Path) -> None:
    folders = [scored_run(tmp_path / name) for name in ("a", "b")]
    best = json.loads((folders[1] / "best.json").read_text())
    (folders[1] / "best.json").write_text(json.dumps(best | {"strengths": best["strengths"] | {"best": 1.0}}))
    runs = read_runs(folders)
    place = folders[0] / "scored" / "strengths" / "step_000200-0.75" / "prompt01_seed1.png"
    assert runs[0].images_at_choice()["a boat, ink", 1] == place and runs[1].images_at_choice() == {}
    (whole_name, whole), (_, chosen) = galleries(runs)
    assert whole_name == "1" and whole.columns == ["base model", "a: step 200", "b: step 200"]
    assert chosen.columns == ["base model", "a: step 200 at strength 0.75", "b: step 200"]
    for before, after in zip(whole.rows, chosen.rows, strict=True):
        assert before.images[0] == after.images[0] and before.images[2] == after.images[2]
        assert before.images[1] != after.images[1]
    (folders[0] / "best.json").write_text((folders[1] / "best.json").read_text())
    assert [name for name, _ in galleries(read_runs(folders))] == ["1"]


def test_previews_stand_in_where_nothing_was_scored(tmp_path: Path) -> None:
    folders = [plain_run(tmp_path / name) for name in ("a", "b")]
    previews = folders[0] / "previews"
    draw_grid(previews, 10)
    for step in (0, 100, 200):
        (previews / f"step_{step:06d}_prompt00_seed0.png").write_bytes((previews / "prompt00_seed0.png").read_bytes())
    (previews / "previews.json").write_text(json.dumps({"prompts": ["a cat"]}))
    first, second = read_runs(folders)
    assert first.images(first.shots[2]) == {("a cat", 0): previews / "step_000200_prompt00_seed0.png"}
    assert second.images(second.shots[2]) == {}


def test_an_empty_config_and_damaged_files_are_read_as_far_as_possible(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("[broken")
        (tmp_path / name / "metrics.jsonl").write_text("{torn")
    run, _ = read_runs([tmp_path / "a", tmp_path / "b"])
    assert (run.num_steps, run.step, dict(run.options), run.grid, run.score("style")) == (None, None, {}, "", None)
