"""`finetune wandb-view` with the real library and a real run."""

import importlib.util
from pathlib import Path

import pytest

from tests.support.launch import command, succeeded
from tests.support.runs import PREVIEWS, Options, completed
from tests.support.wandb_server import history, read_records
from tests.support.wandb_views import ViewServer, add_tracked, loaded, without_account

API_KEY = "0123456789abcdef" * 2 + "01234567"
SCORED: Options = PREVIEWS | {"evaluate.every": 2, "evaluate.max_share": 1.0, "evaluate.grid.num_prompts": 2}
SCORED |= {"evaluate.grid.num_seeds": 2, "evaluate.strengths": (), "train.steps": 2, "validation.fraction": 0.3}
SCORED |= {"validation.every": 2, "data.template": "{caption}, in ink", "tracking.names": ("wandb",)}
VIEW = ["-m", "finetune.cli", "wandb-view"]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="needs wandb-workspaces (the extra wandb-view)"
)


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_account(monkeypatch, tmp_path)


def test_every_panel_shows_what_a_run_logs(tiny_run: Options, tmp_path: Path) -> None:
    run = tmp_path / "ink"
    options = tiny_run | SCORED | {"tracking.mode": "offline", "output.folder": run}
    completed("lora", options, tmp_path / "log")
    assert "Nothing was saved in W&B" in succeeded([*VIEW, str(run)])
    logged = {key for file in run.glob("wandb/*/*.wandb") for row in history(read_records(file)) for key in row}
    logged = {key.partition(".")[0] for key in logged}  # images and tables have their facts below
    script = loaded(run / "wandb_view.py")
    panels = [panel for section in script.make_workspace("somebody").sections for panel in section.panels]
    plots = [panel for panel in panels if hasattr(panel, "y")]
    assert len(plots) >= 3 + 5 + 3 and all(panel.x == "step" and "step" in logged for panel in plots)
    assert [name for panel in plots for name in panel.y if name not in logged] == []
    assert {"tables/scores", "tables/previews", "previews/pictures"} <= logged
    assert [panel.table_name for panel in panels if hasattr(panel, "table_name")] == [
        "tables/scores",
        "tables/previews",
    ]


def test_both_are_saved_where_somebody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = add_tracked(tmp_path / "ink")
    with ViewServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        said = succeeded([*VIEW, str(run)])
        assert "Nothing was saved" not in said and "Workspace: " in said and "Report: " in said
        workspace, report = server.views
        found = [workspace[name] for name in ("type", "projectName", "entityName", "displayName")]
        assert found == ["project-view", "desk", "somebody", "Review desk: ink-ab12"]
        assert "score/style" in workspace["spec"]
        assert report["displayName"].startswith("ink-ab12") and "ab12cd34" in report["spec"]
        server.projects = []
        ended = command([*VIEW, str(run)])
        assert ended.returncode == 1 and "Upload the run first" in ended.stderr
