"""Records passed to trackers, whose faults never stop or slow the run. Faults of the network do not either."""

import importlib.util
import json
import logging
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from finetune.config.tracking import TRACKERS, TrackingConfig
from finetune.extras import install_command
from finetune.files import write_atomically
from finetune.import_named import import_named
from finetune.tracking.backend import (
    Alerting,
    Backend,
    Desk,
    Input,
    LoggedFiles,
    PreviewRow,
    ScoredImage,
    TrackedRun,
    Uploading,
    tracked_name,
)
from finetune.tracking.wandb.environment import (
    RUN_ID,
    identified,
    refuse_invalid,
    switched_off_by,
    unused_variables,
    wanted_run_id,
)

MOST_FAILURES = 3
MOST_WAITING_CALLS = 10_000
START_SECONDS = 10.0
FINISH_SECONDS = 5.0
UPLOAD_SECONDS = 300.0
COPIED_BYTES_PER_SECOND = 50e6
TABLE_IMAGES_PER_SECOND = 10.0
DEFAULT_PROJECT = "sd-finetune"

logger = logging.getLogger(__name__)


def check_trackers(config: TrackingConfig) -> None:
    """Refuse missing packages, and a project, tags or id that W&B refuses. Imports neither. Raises ValueError."""
    packages = [package for name in config.names if (package := TRACKERS[name][1])]
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        raise ValueError(
            f"tracking.names: {', '.join(missing)} not installed. Run: {install_command(*missing)}, or choose others "
            "(OUT/metrics.jsonl and OUT/report.html are written without any)."
        )
    if "wandb" in config.names:
        refuse_invalid(config)


def open_backend(name: str, run: TrackedRun) -> Backend:
    """Return the open tracker of that name."""
    return import_named(TRACKERS[name][0])(run)


class _Lane:
    """A backend on a thread, with a queue of calls."""

    def __init__(self, name: str, run: TrackedRun) -> None:
        self.name, self.num_failures = name, 0
        self.backend: Backend | None = None
        self.opened, self.closed = threading.Event(), threading.Event()
        self._calls: queue.SimpleQueue[Callable[[Backend], None] | None] = queue.SimpleQueue()
        self._exit_code = 0
        threading.Thread(target=self._work, args=(run,), name=f"tracking-{name}", daemon=True).start()

    def submit(self, call: Callable[[Backend], None]) -> None:
        """Queue a call. In a full queue it is lost and counts as a failure."""
        if self._calls.qsize() < MOST_WAITING_CALLS:
            self._calls.put(call)
        else:
            self.count_failure(f"{MOST_WAITING_CALLS} calls wait for it")

    def close(self, exit_code: int) -> None:
        """Let the thread end after the queued calls."""
        self._exit_code = exit_code
        self._calls.put(None)

    def attempt(self, call: Callable[[], None]) -> None:
        """Make one call, catching all errors. Here the rule never to catch Exception is broken, on purpose and nowhere
        else: a tracker only watches, and days of training outweigh its record. wandb raises SystemExit too, where its
        helper process ended badly."""
        try:
            call()
        except (Exception, SystemExit) as fault:  # noqa: BLE001  (see above)
            self.count_failure(f"{type(fault).__name__}: {fault}")

    def count_failure(self, what: str) -> None:
        """Count a failure; the first one is warned of. Passwords in addresses are omitted."""
        self.num_failures += 1
        what = re.sub(r"//[^/@\s]+@", "//", what)
        if self.num_failures == 1:
            logger.warning(
                f"tracking: {self.name} failed ({what}). The run continues, after {MOST_FAILURES} failures without it."
            )

    def _work(self, run: TrackedRun) -> None:
        def start() -> None:
            self.backend = open_backend(self.name, run)

        self.attempt(start)
        self.opened.set()
        backend = self.backend
        while (call := self._calls.get()) is not None:
            if backend is not None and self.num_failures < MOST_FAILURES:
                self.attempt(partial(call, backend))
        if backend is not None:
            self.attempt(partial(backend.finish, self._exit_code))
        self.closed.set()


class Tracker:
    """The open trackers of a run, on the main process only. Every call returns at once."""

    def __init__(self, lanes: Sequence[_Lane], run_id: str, data_fingerprint: str) -> None:
        self._lanes, self._run_id, self._data_fingerprint = lanes, run_id, data_fingerprint
        self._copy_seconds = 0.0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log numbers of a step under `tracked_name`. `step` itself is the axis."""
        named = {tracked_name(key): value for key, value in metrics.items() if key != "step"}
        self._submit(lambda backend: backend.log(named, step))

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        """Log the previews of a step, base and tuned side by side."""
        self._submit(lambda backend: backend.log_previews(rows, step))

    def log_files(
        self,
        folder: Path,
        *,
        name: str,
        kind: str,
        paths: Sequence[Path],
        metadata: Mapping[str, object],
        aliases: Sequence[str] = ("latest",),
    ) -> None:
        """Record files and folders inside `folder` as one artifact of this run. A format of the exported model is one.
        The run's id is part of the artifact's name: two runs that share a name have an artifact each."""
        safe_name = re.sub(r"[^\w.-]", "-", f"{name[:64]}-{self._run_id[:63]}")  # W&B takes 128 characters
        described = json.loads(json.dumps({"dataset_fingerprint": self._data_fingerprint, **metadata}, default=str))
        files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
        self._copy_seconds += sum(file.stat().st_size for file in files) / COPIED_BYTES_PER_SECOND
        artifact = LoggedFiles(safe_name, kind, folder, tuple(paths), described, tuple(aliases))
        self._submit(lambda backend: backend.log_files(artifact))

    def log_inputs(self, inputs: Sequence[Input]) -> None:
        """Record the base model and dataset of the run."""
        self._submit(lambda backend: backend.log_inputs(inputs) if isinstance(backend, Desk) else None)

    def log_gallery(self, rows: Sequence[tuple[int, PreviewRow]]) -> None:
        """Record all previews of the run, each with its step."""
        self._copy_seconds += len(rows) / TABLE_IMAGES_PER_SECOND
        self._submit(lambda backend: backend.log_gallery(rows) if isinstance(backend, Desk) else None)

    def log_scored(self, images: Sequence[ScoredImage]) -> None:
        """Record the images of all scored checkpoints with their scores."""
        self._copy_seconds += len(images) / TABLE_IMAGES_PER_SECOND
        self._submit(lambda backend: backend.log_scored(images) if isinstance(backend, Desk) else None)

    def alert(self, title: str, text: str) -> None:
        """Send an alert with the trackers that have them."""
        self._submit(lambda backend: backend.alert(title, text) if isinstance(backend, Alerting) else None)

    def _submit(self, call: Callable[[Backend], None]) -> None:
        for lane in self._lanes:
            lane.submit(call)

    def finish(self, exit_code: int) -> None:
        """Close every tracker. One that hangs is abandoned after `FINISH_SECONDS`, a dead server sooner. A healthy
        upload is waited for where the run succeeded; a run that was stopped has no time for it."""
        for lane in self._lanes:
            lane.close(exit_code)
        deadline = time.monotonic() + FINISH_SECONDS + self._copy_seconds
        for lane in self._lanes:
            backend = lane.backend
            if not lane.closed.wait(max(deadline - time.monotonic(), 0.0)):
                lane.count_failure("it does not answer, so its record may lack the end of the run")
                if isinstance(backend, Uploading):
                    lane.attempt(backend.abandon)
                    lane.closed.wait(1.0)
            elif isinstance(backend, Uploading):
                lane.attempt(partial(backend.wait_for_upload, UPLOAD_SECONDS if exit_code == 0 else FINISH_SECONDS))

    def notes(self) -> list[str]:
        """One sentence per tracker on where and how to see its record."""
        return [note for lane in self._lanes if lane.backend is not None for note in lane.backend.notes()]


def start_tracking(
    config: TrackingConfig, folder: Path, run_config: Mapping[str, object], *, data_fingerprint: str
) -> Tracker:
    """Open the trackers in turn, waiting at most `START_SECONDS` for all. What opens later still gets every call."""
    tracks_wandb = "wandb" in config.names
    own_id = run_id(folder / "tracking.json", wanted_run_id() if tracks_wandb else None)
    run = TrackedRun(
        folder=folder,
        id=own_id,
        project=config.project or DEFAULT_PROJECT,
        name=config.run_name or f"{folder.absolute().name}-{own_id[:4]}",
        tags=config.tags,
        mode=config.mode,
        config=json.loads(json.dumps({**run_config, "dataset_fingerprint": data_fingerprint}, default=str)),
    )
    unwanted = set()
    if tracks_wandb and (variable := switched_off_by(config)):
        unwanted.add("wandb")
        value = os.environ[variable]
        logger.warning(f"W&B is off: {variable}={value}. Unset it or set --tracking.mode offline to track the run.")
    if tracks_wandb and not unwanted:
        for note in unused_variables(config, folder):
            logger.warning(note)
    deadline = time.monotonic() + START_SECONDS
    lanes = []
    for name in config.names:
        if name not in unwanted:
            lanes.append(_Lane(name, identified(run, config) if name == "wandb" else run))
            lanes[-1].opened.wait(max(deadline - time.monotonic(), 0.0))
    return Tracker(lanes, run.id, data_fingerprint)


def run_id(file: Path, wanted: str | None = None) -> str:
    """Return the run's id, chosen once and stored in `file`. `wanted` is the user's choice; a run that
    already has another id keeps it, with a warning."""
    if file.exists():
        try:
            known = json.loads(file.read_text())["run_id"]
        except (ValueError, KeyError, TypeError):
            known = None
        if isinstance(known, str) and RUN_ID.fullmatch(known):
            if wanted not in (None, known):
                logger.warning(
                    f"WANDB_RUN_ID: got {wanted}, but the run in {file.parent} continues under its id {known}. Unset "
                    f"the variable, or delete {file} to start a new W&B run."
                )
            return known
        logger.warning("%s has no run id; the trackers show the rest of this run as a new one.", file)
    made = wanted or secrets.token_hex(4)
    write_atomically(file, json.dumps({"run_id": made}) + "\n")
    return made
