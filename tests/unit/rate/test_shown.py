import json
from pathlib import Path

import pytest

from finetune.compare.command import compare
from finetune.rate.pairs import Pair, make_pairs
from finetune.rate.shown import own_votes, renew_report
from finetune.rate.targets import find_target
from finetune.rate.votes import Vote, append_line, vote_line
from finetune.report.run import write_report
from tests.support.scored_run import draw_grid, scored_run


def pairs_of(first: Path, second: Path) -> list[Pair]:
    return make_pairs(find_target(first), find_target(second), 0)[0]


def prefer(first: Path, second: Path, file: Path, num: int = 6) -> None:
    """Vote for the images of the first folder."""
    for pair in pairs_of(first, second)[:num]:
        vote: Vote = "left" if pair.left.target == str(first) else "right"
        append_line(file, vote_line(pair, vote))


def page(*folders: Path) -> str:
    return compare(folders, folders[0].parent / "compare.html", say=lambda text: None).read_text()


def test_votes_about_two_steps_of_a_run_are_on_its_report_with_their_interval(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "ink")
    assert "Votes" not in write_report(run, votes=own_votes(run)).read_text()
    prefer(run / "scored" / "step_000100", run / "scored" / "step_000200", run / "votes.jsonl")
    (sentence,) = own_votes(run)
    assert sentence.startswith("step 100 is preferred to step 200 in 100 % of 6 votes (95 % interval 61 to 100 %)")
    assert sentence in write_report(run, votes=own_votes(run)).read_text()


def test_votes_about_strengths_and_the_base_model_are_named_so(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "ink")
    prefer(run / "scored" / "base", run / "scored" / "strengths" / "step_000200-0.75", run / "votes.jsonl")
    (sentence,) = own_votes(run)
    assert sentence.startswith("base model is preferred to step 200 at strength 0.75 in 100 %")


def test_votes_about_two_runs_are_on_the_comparison_and_on_no_report(tmp_path: Path) -> None:
    runs = [scored_run(tmp_path / name) for name in ("a", "b")]
    draw_grid(runs[1] / "scored" / "step_000200", 99)
    prefer(*(run / "scored" / "step_000200" for run in reversed(runs)), runs[0] / "votes.jsonl")
    assert own_votes(runs[0]) == []
    assert "a: step 200 is preferred to b: step 200 in 0 % of 6 votes (95 % interval 0 to 39 %)" in page(*runs)
    other = scored_run(tmp_path / "c")
    draw_grid(other / "scored" / "step_000200", 77)
    assert "is preferred" not in page(runs[0], other)  # whose own images have no votes


def test_the_last_vote_counts_and_those_of_other_images_do_not(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "ink")
    folders, file = [run / "scored" / name for name in ("step_000100", "step_000200")], run / "votes.jsonl"
    prefer(folders[0], folders[1], file)
    prefer(folders[1], folders[0], file, num=2)
    append_line(file, {"pair": pairs_of(*folders)[2].key, "undone": True})
    with file.open("a") as lines:
        lines.write('{"pair": 3, "left": {}}\n[1]\n{"pair": "x", "seed": "y", "preferred": null}\n{torn')
    (sentence,) = own_votes(run)
    assert "step 100 is preferred to step 200 in 60 % of 5 votes" in sentence and "No preference shows" in sentence
    draw_grid(folders[1], 99)
    assert own_votes(run) == []  # its images were drawn again


@pytest.mark.parametrize("is_finished", [True, False])
def test_rating_renews_the_report_of_a_finished_run_alone(tmp_path: Path, is_finished: bool) -> None:
    run = scored_run(tmp_path / "ink")
    assert "is preferred to" not in write_report(run).read_text()
    if is_finished:
        (run / "run.json").write_text(json.dumps({"status": "finished", "steps": 200}))
    prefer(run / "scored" / "step_000100", run / "scored" / "step_000200", run / "votes.jsonl")
    assert renew_report(run) == (run / "report.html" if is_finished else None)
    assert ("is preferred to" in (run / "report.html").read_text()) == is_finished
