import importlib.util
import sys
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.tracking.wandb.view import TEMPLATE, ViewFacts, read_facts, script_text
from tests.support.wandb_views import add_tracked, loaded, without_account

needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="needs wandb-workspaces (the extra wandb-view)"
)


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_account(monkeypatch, tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return add_tracked(tmp_path / "ink")


def view(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", "wandb-view", *map(str, arguments)])
    main()


def test_the_facts_are_those_of_the_run(run: Path) -> None:
    facts = read_facts(run, None, None)
    assert facts == ViewFacts(
        entity="somebody",
        project="desk",
        run_id="ab12cd34",
        run_name="ink-ab12",
        verdict=["Use step 100 at strength 0.75.", "Its style is the highest.", "Warning: few images"],
        rates=["train/lr", "train/lr_text_encoder"],
        timesteps=["validation/loss_at_125", "validation/loss_at_625"],
        scores=["score/style"],
        has_previews=True,
    )


def test_a_run_that_was_not_scored_has_a_view_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tracking.json").write_text('{"run_id": "ab12cd34"}')
    (tmp_path / "scores.jsonl").write_text('torn\n{"scores": [1]}\n')
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    facts = read_facts(tmp_path, None, None)
    assert (facts.project, facts.entity, facts.scores, facts.has_previews) == ("theirs", None, [], False)
    assert "not scored" in facts.verdict[0] and facts.rates == ["train/lr"]
    assert read_facts(tmp_path, "us", "ours").project == "ours"


def test_a_folder_without_tracking_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        view(monkeypatch, tmp_path)
    assert "run: " in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_offline_the_script_is_written_and_nothing_else_is_claimed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    view(monkeypatch, run)
    said = capsys.readouterr().out
    assert "Nothing was saved in W&B" in said and f"python {run / 'wandb_view.py'}" in said
    compile((run / "wandb_view.py").read_text(), "wandb_view.py", "exec")
    view(monkeypatch, run)  # replaces its own
    (run / "wandb_view.py").write_text("mine = 1")
    with pytest.raises(SystemExit):
        view(monkeypatch, run)
    assert (run / "wandb_view.py").read_text() == "mine = 1"


def test_hostile_names_stay_data(tmp_path: Path) -> None:
    hostile = '\'"""\n# End of what differs\nimport os; os.abort()\n\\ {} \udcff'
    facts = ViewFacts(hostile, hostile, "id", hostile, [hostile], [hostile], [], [hostile], True)
    text = script_text(facts)
    path = tmp_path / "wandb_view.py"
    path.write_text(text, encoding="utf-8")
    assigned = {line.partition(" = ")[0]: line.partition(" = ")[2] for line in text.splitlines() if " = " in line}
    assert assigned["RUN_NAME"] == repr(hostile) and assigned["VERDICT"] == repr([hostile])
    assert len(text.splitlines()) == len(TEMPLATE.read_text().splitlines())


@needs_workspaces
def test_the_script_builds_a_workspace_and_a_report(run: Path) -> None:
    path = run / "wandb_view.py"
    path.write_text(script_text(read_facts(run, None, None)))
    script = loaded(path)
    workspace = script.make_workspace("somebody")
    panels = {section.name: section.panels for section in workspace.sections}
    assert list(panels) == ["Scores of the checkpoints", "Images", "Loss", "Learning rate and speed"]
    assert [panel.y for panel in panels["Loss"]][2] == ["validation/loss_at_125", "validation/loss_at_625"]
    assert [panel.table_name for panel in panels["Images"][:2]] == ["tables/scores", "tables/previews"]
    assert '"metrics":["score/style"]' in workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    report = script.make_report("somebody")
    assert report.title == "ink-ab12: which checkpoint to use"
    assert [block.text for block in report.blocks[1:4]] == read_facts(run, None, None).verdict


@needs_workspaces
def test_signs_in_a_runs_name_do_not_stop_the_workspace(run: Path) -> None:
    path = run / "wandb_view.py"
    path.write_text(script_text(ViewFacts(None, "desk", "id", "Häuschen 猫 🎨 $+", [], [], [], [], False)))
    assert loaded(path).make_workspace("somebody").name.startswith("Review desk: Häuschen 猫")
