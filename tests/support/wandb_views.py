"""A W&B server that keeps views, and a run folder."""

import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.drawn_folders import add_previews, add_scored
from tests.support.wandb_server import WandbServer


class ViewServer(WandbServer):
    """A W&B server that keeps the views that are saved."""

    def __init__(self) -> None:
        super().__init__()
        self.views: list[dict[str, Any]] = []
        self.projects = ["desk"]

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        operation = re.findall(r"(?:query|mutation)\s+(\w+)", query)[0].lower()
        if "upsertview" in operation:
            self.views.append(variables)
            project = {"id": "1", "name": variables["projectName"], "entityName": variables["entityName"]}
            view = {**variables, "id": f"view{len(self.views)}", "project": project, "updatedAt": None}
            return {"upsertView": {"view": view, "inserted": True}}
        if operation == "projectinternalid":
            is_known = variables["projectName"] in self.projects
            return {"project": {"id": "1", "internalId": "7"} if is_known else None}
        if operation == "getprojects":
            facts = {"id": "1", "internalId": "7", "entityName": "somebody", "createdAt": "2026-01-01T00:00:00"}
            facts |= {"__typename": "Project", "isBenchmark": False, "user": None}
            nodes = [{"node": {**facts, "name": name}} for name in self.projects]
            page = {"edges": nodes, "pageInfo": {"hasNextPage": False, "endCursor": ""}}
            return {"models": page}
        viewer = {"id": "1", "entity": "somebody", "username": "somebody", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"cliVersionInfo": {}, "features": []}} | super().answer(
            query, variables
        )


def add_tracked(run: Path) -> Path:
    """A scored run that W&B tracked."""
    add_previews(run, 0, 100)
    add_scored(run, {"scored/base": None, "scored/step_000100": 100})
    (run / "tracking.json").write_text('{"run_id": "ab12cd34"}')
    rows = [
        {"step": 10, "loss": 0.5, "lr": 1e-4, "lr_text_encoder": 1e-5, "grad_norm": 1.0},
        {"step": 20, "validation/loss": 0.2, "validation/loss_at_625": 0.3, "validation/loss_at_125": 0.1},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    best = {"step": 100, "reason": "Its style is the highest.", "warnings": ["few images"], "strengths": {"best": 0.75}}
    (run / "best.json").write_text(json.dumps(best))
    with (run / "config.yaml").open("a") as file:
        file.write("tracking:\n  project: desk\n  entity: somebody\n  run_name: null\n")
    return run


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("written_view", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_account(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Leave W&B nobody who is logged in, and no server that answers."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(folder / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
