"""MLflow's record of a run, read back from a real database."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from finetune.processes.signals import EXIT_CODE
from finetune.tracking import tracker as tracking
from tests.e2e.test_trackers import GUARD_SECONDS, ROWS, log_everything, start, warnings_collected

BEST = {"score/best_step": 4, "score/exported_step": 5}


def client(folder: Path) -> MlflowClient:
    uri = f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def runs(folder: Path) -> list[Run]:
    found = client(folder)
    experiment = found.get_experiment_by_name("sd-finetune")
    assert experiment is not None
    return list(found.search_runs([experiment.experiment_id]))


def artifact(folder: Path, name: str) -> Any:
    (file,) = (folder / "mlflow" / "artifacts").glob(f"*/artifacts/{name}")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was logged, stopped and resumed."""
    out = tmp_path_factory.mktemp("out")
    with warnings_collected() as warnings, pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name in ("START_SECONDS", "FINISH_SECONDS"):
            patch.setattr(tracking, name, 6 * GUARD_SECONDS)  # the database is made first
        tracker = start(out, "mlflow")
        log_everything(tracker, out)
        tracker.finish(EXIT_CODE)
        assert [run.info.status for run in runs(out)] == ["KILLED"]
        tracker = start(out, "mlflow")
        tracker.log({"step": 6, "loss": 0.125}, 6)
        tracker.log(BEST, 6)
        tracker.alert("Plateau", "No improvement since step 4.")
        tracker.finish(0)
    assert warnings == []
    return out


def test_a_resumed_run_continues_under_one_id_with_every_number(folder: Path) -> None:
    (run,) = runs(folder)
    known = json.loads((folder / "tracking.json").read_text())["run_id"]
    assert run.info.status == "FINISHED" and run.data.tags["finetune.run_id"] == known
    losses = client(folder).get_metric_history(run.info.run_id, "loss/train")
    expected = [(row["step"], row["loss"]) for row in ROWS] + [(6, 0.125)]
    assert sorted((each.step, each.value) for each in losses) == expected
    assert {name: run.data.metrics[name] for name in BEST} == BEST
    assert run.data.tags["alert.Plateau"] == "No improvement since step 4."


def test_options_are_parameters_and_a_file(folder: Path) -> None:
    (run,) = runs(folder)
    assert run.data.params == {"optim.lr": "0.0001", "data": "ink", "dataset_fingerprint": "f1e2"}
    assert artifact(folder, "config.json") == {"optim": {"lr": 1e-4}, "data": "ink", "dataset_fingerprint": "f1e2"}
    assert run.data.tags["tags"] == "ink"


def test_previews_are_images_of_a_step_and_one_table(folder: Path) -> None:
    (run,) = runs(folder)
    names = [file.path for file in client(folder).list_artifacts(run.info.run_id, "images")]
    assert len([name for name in names if re.match(r"images/previews.0[01].step.5.*\.png", name)]) == 2
    table = artifact(folder, "tables/previews.json")
    assert table["columns"] == ["prompt", "seed", "step", "base", "tuned"]
    assert [row[:3] for row in table["data"]] == [["a cat", 0, 0], ["a cat", 1, 5]]
    assert [row[3] is None for row in table["data"]] == [True, False]


def test_scored_images_are_a_table_that_mlflow_itself_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    (run,) = runs(folder)
    shown = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": f"tables/{name}.json", "type": "table"} for name in ("previews", "scores")]
    table = client(folder).load_table(run.info.experiment_id, "tables/scores.json", [run.info.run_id])
    names = ["prompt", "kind", "seed", "step", "base", "tuned", "style", "nearest", "nearest training image"]
    assert list(table.columns) == names and table["nearest"][0] == "a.png"
    assert table["style"][0] == pytest.approx(0.7)
    cell = table["tuned"][0]
    assert cell["type"] == "image"
    (image,) = (folder / "mlflow" / "artifacts").glob(f"*/artifacts/{cell['filepath']}")
    assert image.read_bytes() == (folder / "tuned.png").read_bytes()


def test_the_dataset_is_an_input_and_the_exported_files_are_artifacts(folder: Path) -> None:
    (run,) = runs(folder)
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.name == "ink-f1e2" and json.loads(given.dataset.profile) == {"num_train": 12}
    assert run.data.tags["base_model"] == "tiny-0a1b"
    place = f"ink-style-{run.data.tags['finetune.run_id']}"
    assert artifact(folder, f"{place}/facts.json")["steps"] == 5
    (weights,) = (folder / "mlflow" / "artifacts").glob(f"*/artifacts/{place}/style.safetensors")
    assert weights.read_bytes() == b"weights" * 1000
    assert list((folder / "mlflow" / "artifacts").glob(f"*/artifacts/{place}/embeddings/word.safetensors"))


def test_a_server_that_is_gone_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:canary@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "START_SECONDS", 6 * GUARD_SECONDS)
    with warnings_collected() as warnings:
        tracker = start(tmp_path, "mlflow")
        tracker.log(ROWS[0], 1)
        tracker.finish(0)
    assert len(warnings) == 1 and "mlflow failed" in warnings[0] and "The run continues" in warnings[0]
    assert "canary" not in warnings[0] and not (tmp_path / "mlflow").exists()
