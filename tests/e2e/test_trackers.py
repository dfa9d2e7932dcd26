import json
import logging
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from finetune.config.tracking import TRACKERS, TrackingConfig
from finetune.tracking import tracker as tracking
from finetune.tracking.backend import Input, LoggedFiles, ScoredImage, TrackedRun
from finetune.tracking.tracker import PreviewRow, Tracker, check_trackers, start_tracking
from finetune.tracking.wandb import offline_run
from finetune.tracking.wandb import server as server_probe
from tests.support.launch import succeeded
from tests.support.wandb_server import WandbServer, history, read_records

API_KEY = "canary5c1e0key" * 4
HUB_TOKEN = "hf_canary9d7ftoken"
COMMAND_LINE = ["recipe", "--token", "canary3b2argument"]
CANARIES = (b"canary5c1e0key", b"canary9d7ftoken", b"canary3b2argument")
REFUSING = "http://127.0.0.1:9"
GUARD_SECONDS = 30
ROWS = [
    {"step": step, "loss": 1 / step, "lr": 1e-4, "validation/loss": 0.5 if step == 2 else 0.25 / step}
    for step in range(1, 6)
]


@contextmanager
def warnings_collected() -> Iterator[list[str]]:
    messages, logger = list[str](), logging.getLogger("finetune.tracking.tracker")

    def note(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return True

    logger.addFilter(note)
    yield messages
    logger.removeFilter(note)


@pytest.fixture
def told() -> Iterator[list[str]]:
    with warnings_collected() as messages:
        yield messages


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Log out of W&B, and restore the environment afterwards."""
    for name in ("API_KEY", "MODE", "BASE_URL", "PROJECT", "NAME", "TAGS", "RUN_ID", "DIR", "RESUME"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("WANDB_DATA_DIR", "WANDB_ERROR_REPORTING", "TRACKIO_DIR"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb_config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb_cache"))


@dataclass(frozen=True)
class Finished:
    folder: Path
    records: list[Record]
    warnings: list[str]

    def of(self, kind: str) -> list[Any]:
        return [getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind]


def start(folder: Path, *names: str, mode: str = "auto") -> Tracker:
    config = TrackingConfig(names=names or ("wandb",), tags=("ink",), mode=mode)  # pyright: ignore[reportArgumentType]
    return start_tracking(config, folder, {"optim": {"lr": 1e-4}, "data": Path("ink")}, data_fingerprint="f1e2")


def log_everything(tracker: Tracker, folder: Path) -> None:
    for row in ROWS:
        tracker.log(row, int(row["step"]))
    for name, color in (("base.png", "white"), ("tuned.png", "black")):
        Image.new("RGB", (48, 32), color).save(folder / name)
    (folder / "export" / "embeddings").mkdir(parents=True)
    (folder / "export" / "style.safetensors").write_bytes(b"weights" * 1000)
    (folder / "export" / "embeddings" / "word.safetensors").write_bytes(b"word")
    base, tuned = folder / "base.png", folder / "tuned.png"
    tracker.log_inputs([Input("ink-f1e2", "dataset", {"num_train": 12}), Input("tiny-0a1b", "base_model", {})])
    previews = [PreviewRow("a cat", 0, base, None), PreviewRow("a cat", 1, tuned, base)]
    tracker.log_previews(previews, 5)
    tracker.log_gallery([(0, previews[0]), (5, previews[1])])
    scored = ScoredImage("a cat, ink", "new_content", 0, 5, tuned, base, {"style": 0.7}, "a.png", None)
    tracker.log_scored([scored, replace(scored, seed=1, scores={}, nearest=None)])
    paths = [folder / "export" / name for name in ("style.safetensors", "embeddings")]
    tracker.log_files(folder / "export", name="ink style", kind="model", paths=paths, metadata={"steps": 5})


def tracked(folder: Path, *names: str, mode: str = "auto", rows: Sequence[Mapping[str, float]] = ROWS[:1]) -> Tracker:
    tracker = start(folder, *names, mode=mode)
    for row in rows:
        tracker.log(row, int(row["step"]))
    tracker.finish(0)
    return tracker


def wandb(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "wandb", *words]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=GUARD_SECONDS, check=True)
    return answer.stdout + answer.stderr


def wandb_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An offline run with secrets in the environment and a refusing server."""
    folder = tmp_path_factory.mktemp("out")
    with warnings_collected() as warnings, pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        patch.setenv("WANDB_API_KEY", API_KEY)
        patch.setenv("HF_TOKEN", HUB_TOKEN)
        patch.setenv("WANDB_BASE_URL", REFUSING)
        patch.setenv("WANDB_DATA_DIR", "")
        patch.setenv("WANDB_ERROR_REPORTING", "")
        patch.setattr(sys, "argv", COMMAND_LINE)
        for name in ("START_SECONDS", "FINISH_SECONDS"):
            patch.setattr(tracking, name, GUARD_SECONDS)  # a busy machine may take longer than users wait
        tracker = start(folder)
        log_everything(tracker, folder)
        tracker.finish(0)
    (file,) = wandb_files(folder)
    return Finished(folder, read_records(file), warnings)


def test_the_wandb_file_holds_every_logged_number_and_says_how_the_run_ended(finished: Finished) -> None:
    assert [record.exit_code for record in finished.of("exit")] == [0]
    assert finished.records[-1].WhichOneof("record_type") == "exit"
    names = {"step": "step", "loss": "loss/train", "lr": "train/lr", "validation/loss": "loss/validation"}
    rows = [row for row in history(finished.records) if "loss/train" in row]
    assert rows == [{names[key]: value for key, value in row.items()} for row in ROWS]


def test_the_wandb_run_carries_config_tags_and_the_datasets_fingerprint(finished: Finished) -> None:
    (run,) = finished.of("run")
    config = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert config["optim"] == {"lr": 1e-4} and config["dataset_fingerprint"] == "f1e2"
    assert list(run.tags) == ["ink"] and run.display_name == f"{finished.folder.name}-{run.run_id[:4]}"


def test_wandb_charts_use_our_step_as_their_axis(finished: Finished) -> None:
    axes = {metric.glob_name: metric.step_metric for metric in finished.of("metric")}
    assert axes["train/*"] == axes["validation/*"] == axes["previews/*"] == "step"


def test_all_previews_are_one_table_of_prompt_seed_step_with_the_base_beside(finished: Finished) -> None:
    shown = [row for row in history(finished.records) if any(key.startswith("previews/") for key in row)]
    captions = ["a cat (seed 0)", "a cat (seed 1)", "a cat (seed 1), base model"]
    assert shown[0]["step"] == 5 and shown[0]["previews/pictures.captions"] == captions
    stored = next(table for table in tables(finished) if "kind" not in table["columns"])
    assert stored["columns"] == ["prompt", "seed", "step", "base", "tuned"]
    assert [cells[:3] for cells in stored["data"]] == [["a cat", 0, 0], ["a cat", 1, 5]]
    assert [cells[3] is None for cells in stored["data"]] == [True, False]


def tables(finished: Finished) -> list[dict[str, Any]]:
    """Read the tables that were logged."""
    logged = [artifact for artifact in finished.of("artifact") if artifact.type == "run_table"]
    contents = [entry for table in logged for entry in table.manifest.contents if entry.path.endswith(".table.json")]
    return [json.loads(Path(content.local_path).read_text()) for content in contents]


def test_scored_images_are_one_table_with_scores_and_the_nearest_training_image(finished: Finished) -> None:
    stored = next(table for table in tables(finished) if "kind" in table["columns"])
    names = ["prompt", "kind", "seed", "step", "base", "tuned", "style", "nearest", "nearest training image"]
    assert stored["columns"] == names
    first, second = stored["data"]
    assert [*first[:4], first[6], first[7]] == ["a cat, ink", "new_content", 0, 5, 0.7, "a.png"]
    assert second[2] == 1 and second[6:] == [None, None, None] and second[5]["_type"] == "image-file"
    metrics = {metric.name: metric for metric in finished.of("metric")}
    assert metrics["score/style"].summary.max and metrics["score/drift"].summary.min


def test_dataset_and_base_model_are_inputs_of_the_run_without_their_files(finished: Finished) -> None:
    inputs = {artifact.type: artifact for artifact in finished.of("artifact") if artifact.use_after_commit}
    assert {kind: artifact.name for kind, artifact in inputs.items()} == {
        "dataset": "ink-f1e2",
        "base_model": "tiny-0a1b",
    }
    assert json.loads(inputs["dataset"].metadata) == {"num_train": 12}
    assert [content.path for content in inputs["dataset"].manifest.contents] == ["facts.json"]


def test_the_summary_keeps_the_lowest_validation_loss_and_its_step(tmp_path: Path) -> None:
    losses = {1: 0.5, 2: 0.2, 3: 0.4}
    rows = [{"step": step, "validation/loss": loss} for step, loss in losses.items()]
    tracked(tmp_path, rows=rows)
    records = read_records(wandb_files(tmp_path)[0])
    metrics = {record.metric.name: record.metric for record in records if record.HasField("metric")}
    assert metrics["loss/validation"].summary.min
    updates = [update for record in records if record.HasField("summary") for update in record.summary.update]
    steps = [update.value_json for update in updates if "validation/lowest_step" in (update.key, *update.nested_key)]
    assert steps[-1] == "2"
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tracked(tmp_path, rows=[{"step": 4, "validation/loss": 0.3}])  # a resumed run remembers
    records = read_records(wandb_files(tmp_path)[-1])
    updates = [update for record in records if record.HasField("summary") for update in record.summary.update]
    assert [u.value_json for u in updates if "validation/lowest_step" in (u.key, *u.nested_key)][-1] == "2"


def test_entity_group_job_type_and_notes_are_options_that_win_over_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "theirs")
    given: Any = {"entity": "team", "group": "ours", "job_type": "train", "notes": "why"}
    start_tracking(TrackingConfig(**given), tmp_path, {}, data_fingerprint="f").finish(0)
    (run,) = [record.run for record in read_records(wandb_files(tmp_path)[0]) if record.HasField("run")][:1]
    assert (run.entity, run.run_group, run.job_type, run.notes) == ("team", "ours", "train", "why")
    assert told == [
        "WANDB_RUN_GROUP: got theirs, but tracking.group ours is used. Omit the option to use the variable."
    ]


def test_two_runs_in_folders_of_one_name_have_names_of_their_own(tmp_path: Path) -> None:
    names = set()
    for parent in ("a", "b"):
        folder = tmp_path / parent / "run"
        folder.mkdir(parents=True)
        tracked(folder)
        names |= {record.run.display_name for record in read_records(wandb_files(folder)[0]) if record.HasField("run")}
    assert len(names) == 2 and all(re.fullmatch(r"run-[0-9a-f]{4}", name) for name in names)


def test_the_exported_files_are_one_artifact_of_this_run_alone(finished: Finished) -> None:
    (model,) = [artifact for artifact in finished.of("artifact") if artifact.type == "model"]
    known = json.loads((finished.folder / "tracking.json").read_text())["run_id"]
    assert model.name == f"ink-style-{known}"
    assert json.loads(model.metadata) == {"dataset_fingerprint": "f1e2", "steps": 5}
    copies = {content.path: Path(content.local_path) for content in model.manifest.contents}
    assert all(copy.is_relative_to(finished.folder) for copy in copies.values())
    expected = {"style.safetensors": b"weights" * 1000, "embeddings/word.safetensors": b"word"}
    assert {name: copy.read_bytes() for name, copy in copies.items()} == expected


def test_a_refusing_server_costs_little_and_is_reported_once_with_the_way_to_upload_later(finished: Finished) -> None:
    (warning,) = finished.warnings
    assert REFUSING in warning and f"wandb sync {finished.folder}" in warning


def test_no_secret_and_no_command_line_is_in_any_file(finished: Finished) -> None:
    files = [file for file in finished.folder.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert [(file, canary) for file in files for canary in CANARIES if canary in file.read_bytes()] == []


def test_wandb_leet_reads_the_offline_run(finished: Finished) -> None:
    said = wandb(finished.folder, "leet", "inspect", "--summary", "--json", "wandb")
    assert "finished" in said
    shown = sorted(set(re.findall(r'"([a-z_]+/[a-z_]+)":', said)))  # leet's pages are in this order
    assert shown[:2] == ["loss/train", "loss/validation"]


def test_a_resumed_run_keeps_its_id_and_both_parts_are_ready_for_wandb_sync(tmp_path: Path) -> None:
    for rows in (ROWS[:3], ROWS[1:]):
        tracked(tmp_path, rows=rows)
    files = wandb_files(tmp_path)
    known = json.loads((tmp_path / "tracking.json").read_text())["run_id"]
    assert [file.name for file in files] == [f"run-{known}.wandb"] * 2
    assert [[row["step"] for row in history(read_records(file))] for file in files] == [[1, 2, 3], [2, 3, 4, 5]]
    assert {record.run.resume for file in files for record in read_records(file) if record.HasField("run")} == {True}
    assert "Would sync 2 run(s)" in wandb(tmp_path, "sync", "--dry-run", *(str(file.parent) for file in files))


def test_the_printed_command_syncs_every_part_of_a_resumed_run(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    tracked(folder)
    (note,) = tracked(folder, rows=ROWS[1:2]).notes()
    line = re.findall(r"wandb sync .*(?= uploads)", note)[0].replace("wandb sync", "printf '%s\\n'")
    shown = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown == [str(file.parent) for file in wandb_files(folder)] and len(shown) == 2


def test_wandbs_own_variables_name_the_run_where_no_option_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    wanted = {"PROJECT": "p", "NAME": "n", "TAGS": "a, b,,", "RUN_ID": "night-1", "RUN_GROUP": "g", "NOTES": "why"}
    for name, value in wanted.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    start_tracking(TrackingConfig(), tmp_path, {}, data_fingerprint="f").finish(0)
    (run,) = [record.run for record in read_records(wandb_files(tmp_path)[0]) if record.HasField("run")][:1]
    assert (run.project, run.display_name, run.run_id, run.run_group, run.notes) == ("p", "n", "night-1", "g", "why")
    assert sorted(run.tags) == ["a", "b"] and told == []


def test_an_option_wins_over_wandbs_variable_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    for name, value in {"PROJECT": "theirs", "TAGS": "ink", "DIR": "/elsewhere", "RESUME": "must"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    config = TrackingConfig(names=("wandb",), project="ours", tags=("ink",))
    start_tracking(config, tmp_path, {}, data_fingerprint="f").finish(0)
    (run,) = [record.run for record in read_records(wandb_files(tmp_path)[0]) if record.HasField("run")][:1]
    assert run.project == "ours"
    assert [text.split(maxsplit=1)[0].rstrip(":") for text in told] == ["WANDB_PROJECT", "WANDB_DIR", "WANDB_RESUME"]


def test_a_run_keeps_its_id_whatever_wandb_run_id_says_later(tmp_path: Path, told: list[str]) -> None:
    assert tracking.run_id(tmp_path / "tracking.json", "first") == "first"
    assert tracking.run_id(tmp_path / "tracking.json", "first") == "first" and told == []
    assert tracking.run_id(tmp_path / "tracking.json", "second") == "first"
    assert "second" in told[0] and "first" in told[0]


@pytest.mark.parametrize("wanted", ["a/b", " a", "a:b", "x" * 129])
def test_a_run_id_that_wandb_refuses_is_refused_before_the_run(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", wanted)
    with pytest.raises(ValueError, match="WANDB_RUN_ID"):
        check_trackers(TrackingConfig(names=("wandb",)))
    check_trackers(TrackingConfig(names=("tensorboard",)))


@pytest.mark.parametrize(
    ("variables", "options", "word"),
    [
        ({"PROJECT": "team/ink"}, {}, "WANDB_PROJECT: got team/ink"),
        ({"PROJECT": "team/ink"}, {"project": "x" * 129}, "tracking.project: got xxx"),
        ({"TAGS": "ink," + "x" * 65}, {}, "WANDB_TAGS: got xxx"),
        ({}, {"tags": ("ink", "")}, "tracking.tags: got an empty tag"),
    ],
)
def test_a_project_or_tag_that_wandb_refuses_is_refused_before_the_run(
    variables: dict[str, str], options: dict[str, Any], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    with pytest.raises(ValueError, match=word):
        check_trackers(replace(TrackingConfig(), **options))
    check_trackers(TrackingConfig(names=("tensorboard",)))


def test_a_run_id_file_without_an_id_gives_a_new_id_and_a_warning(tmp_path: Path, told: list[str]) -> None:
    file = tmp_path / "tracking.json"
    file.write_text('{"run_id": "../../elsewhere"}')
    made = tracking.run_id(file)
    assert len(made) == 8 and "no run id" in told[0] and tracking.run_id(file) == made


def test_a_server_that_never_answers_leaves_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setattr(server_probe, "PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracked(tmp_path)
    assert len(told) == 1 and "does not answer" in told[0]
    assert [row["step"] for row in history(read_records(wandb_files(tmp_path)[0]))] == [1]


def test_a_key_of_the_wrong_form_leaves_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    tracked(tmp_path)
    assert len(told) == 1 and "WANDB_API_KEY" in told[0]
    assert len(history(read_records(wandb_files(tmp_path)[0]))) == 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server


def test_a_logged_in_users_run_is_uploaded_as_it_grows(server: WandbServer, tmp_path: Path, told: list[str]) -> None:
    tracker = start(tmp_path)
    log_everything(tracker, tmp_path)
    tracker.finish(0)
    losses = [row["loss/train"] for row in server.history.values() if "loss/train" in row]
    assert losses == [row["loss"] for row in ROWS]
    assert server.is_complete and server.num_artifacts == 5
    assert server.files["/artifact/style.safetensors"] == b"weights" * 1000
    assert told == []
    assert "is uploaded" in tracker.notes()[0]
    assert not any(canary in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() for canary in CANARIES)


def test_a_server_that_falls_silent_leaves_a_complete_offline_run(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    tracker = start(tmp_path)
    monkeypatch.setattr(server_probe, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(offline_run, "CHECK_SECONDS", 0.5)
    server.is_silent.set()
    log_everything(tracker, tmp_path)
    tracker.finish(0)
    assert len(told) == 1 and "wandb sync" in told[0]
    records = read_records(wandb_files(tmp_path)[0])
    assert records[-1].WhichOneof("record_type") == "exit"
    assert len([row for row in history(records) if "loss/train" in row]) == len(ROWS)


def test_the_run_continues_when_wandbs_helper_process_is_killed(tmp_path: Path, told: list[str]) -> None:
    tracker = start(tmp_path, "wandb", "tensorboard")
    for child in psutil.Process().children():
        if child.name() == "wandb-core":
            child.kill()
    for row in ROWS:
        tracker.log(row, int(row["step"]))
    tracker.finish(0)
    assert len(told) == 1 and "wandb failed" in told[0]
    assert [event.step for event in tensorboard_events(tmp_path).Scalars("loss/train")] == [1, 2, 3, 4, 5]


def tensorboard_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    tracker = start(tmp_path, "tensorboard")
    log_everything(tracker, tmp_path)
    tracker.finish(0)
    events = tensorboard_events(tmp_path)
    logged = [(row["step"], pytest.approx(row["loss"])) for row in ROWS]
    assert [(event.step, event.value) for event in events.Scalars("loss/train")] == logged
    assert "loss/validation" in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["previews/00", "previews/01"]
    assert any(tag.startswith("files/ink-style-") for tag in events.Tags()["tensors"])


def test_trackio_writes_under_the_run_folder_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.e2e.test_trackers import start, log_everything\n"
        "folder = Path(sys.argv[1])\ntracker = start(folder, 'trackio')\n"
        "log_everything(tracker, folder)\ntracker.finish(0)\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "run = SQLiteStorage.get_runs('sd-finetune')[0]\n"
        "logs = SQLiteStorage.get_logs('sd-finetune', run['name'] if isinstance(run, dict) else run)\n"
        "print('steps', [row['step'] for row in logs if 'loss/train' in row])\n"
    )
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    for name in ("TRACKIO_DIR", "HF_HOME", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert "steps [1, 2, 3, 4, 5]" in succeeded(["-c", script, str(out)], HOME=str(home))
    assert (out / "trackio" / "sd-finetune.db").exists()
    assert [file for file in home.rglob("*") if "trackio" in file.name] == []


def test_a_tracker_that_is_not_installed_is_refused_with_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(TrackingConfig(names=("wandb", "tensorboard", "trackio")))
    monkeypatch.setattr(tracking, "TRACKERS", TRACKERS | {"absent": ("nowhere:Absent", "no_such_tracker")})
    with pytest.raises(ValueError, match=r"no_such_tracker.*pip install no_such_tracker"):
        check_trackers(TrackingConfig(names=("wandb", "absent")))


@pytest.mark.parametrize(("variable", "value"), [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")])
def test_wandbs_variables_switch_it_off_with_a_warning(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setenv(variable, value)
    tracked(tmp_path)
    assert not (tmp_path / "wandb").exists()
    assert [text.partition(". ")[0] for text in told] == [f"W&B is off: {variable}={value}"]


def test_a_mode_that_is_given_wins_over_wandbs_variable_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = TrackingConfig(names=("wandb",), mode="offline")
    start_tracking(config, tmp_path, {}, data_fingerprint="f").finish(0)
    assert wandb_files(tmp_path)
    assert told == ["WANDB_MODE: got disabled, but tracking.mode offline is used. Omit the option to use it."]


class Scripted:
    def __init__(self, run: TrackedRun, act: Callable[[], None]) -> None:
        self.run = run
        self.calls: list[Any] = []
        self._act = act

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append((dict(metrics), step))
        self._act()

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        self._act()

    def log_files(self, files: LoggedFiles) -> None:
        self._act()

    def finish(self, exit_code: int) -> None:
        self.calls.append(exit_code)
        self._act()

    def wait_for_upload(self, seconds: float) -> None:
        self._act()

    def abandon(self) -> None:
        self.calls.append("abandoned")

    def notes(self) -> list[str]:
        return []


def start_scripted(folder: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> tuple[Tracker, Scripted]:
    opened: list[Scripted] = []

    def open_scripted(name: str, run: TrackedRun) -> Scripted:
        opened.append(Scripted(run, act))
        return opened[-1]

    monkeypatch.setattr(tracking, "open_backend", open_scripted)
    tracker = start(folder)
    return tracker, opened[0]


def test_keys_without_a_slash_become_train_and_step_is_the_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, backend = start_scripted(tmp_path, monkeypatch, lambda: None)
    tracker.log({"step": 7, "loss": 0.5, "validation/loss": 0.25}, 7)
    tracker.finish(3)
    assert backend.calls == [({"loss/train": 0.5, "loss/validation": 0.25}, 7), 3]


def test_a_failing_tracker_is_warned_of_once_and_left_after_three_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    def fail() -> None:
        raise SystemExit("broken")

    tracker, backend = start_scripted(tmp_path, monkeypatch, fail)
    for step in range(10):
        tracker.log({"loss": 1.0}, step)
    tracker.finish(0)
    assert [call[1] for call in backend.calls[:-1]] == [0, 1, 2] and backend.calls[-1] == 0  # it is closed all the same
    assert len(told) == 1 and "wandb failed (SystemExit: broken)" in told[0]


def test_a_tracker_that_cannot_open_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    def fail(name: str, run: TrackedRun) -> Scripted:
        raise OSError("no space left")

    monkeypatch.setattr(tracking, "open_backend", fail)
    tracked(tmp_path)
    assert len(told) == 1 and "no space left" in told[0]


def test_a_tracker_that_hangs_holds_up_neither_the_calls_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.2)
    monkeypatch.setattr(tracking, "MOST_WAITING_CALLS", 50)
    released = threading.Event()

    def hang() -> None:
        assert released.wait(GUARD_SECONDS)

    tracker, backend = start_scripted(tmp_path, monkeypatch, hang)
    for step in range(100):
        tracker.log({"loss": 1.0}, step)
    tracker.finish(0)
    released.set()
    assert "abandoned" in backend.calls and len(told) == 1
