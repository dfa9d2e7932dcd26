"""W&B: an offline run in OUT/wandb, and a process that uploads it.

It uploads the run as it grows, where the user is logged in. The training process itself never connects to a W&B server.
wandb's online mode does so in the middle of calls: with 0.31 `log_artifact` waited 41 s for a server that no longer
responded, and its helper process, which also keeps the record on disk, crashed on an unexpected response. An offline
run has neither problem; `wandb beta sync --live` sends the same records from outside, and `wandb sync` completes an
incomplete upload.
"""

import json
import logging
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.report.rows import read_rows
from finetune.report.validation import Lowest, lowest
from finetune.tracking.backend import Input, LoggedFiles, PreviewRow, ScoredImage, TrackedRun
from finetune.tracking.wandb.environment import tags_of
from finetune.tracking.wandb.server import answers

CHECK_SECONDS = 2.0
QUIET_SECONDS = 10.0
HIGHER_SCORES = ("style", "subject", "adherence", "diversity")
LOWER_SCORES = ("drift", "leak", "memorisation", "faults", "kid", "cmmd")
"""Scores of checkpoints by what is better, of which the summary shows the best."""
UPLOAD_SCRIPT = Path(__file__).with_name("upload.py")

logger = logging.getLogger("finetune.tracking.tracker")


class WeightsAndBiases:
    """An offline W&B run. `step` is its axis, so a resumed run may log a step twice."""

    def __init__(self, run: TrackedRun) -> None:
        # Files of artifacts and tables wait here for the upload; the default is in the home folder, apart from the run.
        os.environ["WANDB_DATA_DIR"] = str(run.folder.absolute() / "wandb")
        # wandb reports its own errors to the server, also from offline runs; a silent one held up our exit by 10 s.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        # It reads its variable beside the tags that it is given, and refuses the run for an empty one, as in "ink,".
        if tags := tags_of(os.environ):
            os.environ["WANDB_TAGS"] = ",".join(tags)
        else:
            os.environ.pop("WANDB_TAGS", None)
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            save_code=False,
            disable_code=True,
            disable_git=True,
            # wandb's metadata file has the command line, which may contain a token.
            x_disable_meta=True,
            # The default of 15 s is what a killed run would lose.
            x_transaction_log_flush_interval=1.0,
        )
        session = wandb.setup(settings)
        self._server = session.settings.base_url
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            tags=run.tags,
            entity=run.entity,
            group=run.group,
            job_type=run.job_type,
            notes=run.notes,
            config=dict(run.config),
            dir=str(run.folder),
            mode="offline",
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
        self.folder = Path(self._run.settings.sync_dir)
        self._run.define_metric("step")
        for prefix in ("loss", "train", "validation", "previews", "score", "tables"):
            self._run.define_metric(f"{prefix}/*", step_metric="step")
        for name in LOWER_SCORES:
            self._run.define_metric(f"score/{name}", step_metric="step", summary="min")
        for name in HIGHER_SCORES:
            self._run.define_metric(f"score/{name}", step_metric="step", summary="max")
        self._run.define_metric("loss/validation", step_metric="step", summary="min")
        for name in ("images_per_second", "mfu", "data_wait"):
            self._run.define_metric(f"train/{name}", step_metric="step", summary="mean")
        self._lowest = lowest(read_rows(run.folder / "metrics.jsonl")[0])
        if self._lowest is not None:
            self._run.summary["validation/lowest_step"] = self._lowest.step
        self._upload = self._start_upload() if self._wants_upload(run, session.settings.mode) else None

    def _wants_upload(self, run: TrackedRun, mode: str) -> bool:
        if run.mode == "offline" or (run.mode == "auto" and mode not in ("online", "run", "shared")):
            return False
        from wandb.errors import AuthenticationError
        from wandb.sdk.lib import wbauth

        try:
            found = wbauth.authenticate_session(host=self._server, source="", prompt=False, update_session=False)
        except AuthenticationError as fault:
            logger.warning("W&B: %s %s", fault, self._kept())
            return False
        if found is None:
            if run.mode == "online":
                logger.warning("W&B: tracking.mode=online, but nobody is logged in; run wandb login. %s", self._kept())
            return False
        if not answers(self._server):
            logger.warning("W&B: %s does not answer. %s", self._server, self._kept())
            return False
        return True

    def _start_upload(self) -> subprocess.Popen[bytes]:
        # These would lead it to our own wandb helper process, or keep it offline.
        environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SERVICE", "WANDB_MODE")}
        environment["WANDB_DIR"] = str(self.folder.absolute().parents[1])  # or its log is in the working folder
        with (self.folder / "upload.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, str(UPLOAD_SCRIPT), str(self.folder.absolute())],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def _sync_command(self) -> str:
        # A resumed run has a folder for each time it was started; wandb sync takes them in order and skips sent ones.
        return f"wandb sync {shlex.quote(str(self.folder.parent))}/offline-run-*"

    def _kept(self) -> str:
        return f"The run is kept in {self.folder.parent}. Upload it any time with: {self._sync_command()}"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, "step": step})
        loss = metrics.get("loss/validation", math.nan)
        if math.isfinite(loss) and (self._lowest is None or loss <= self._lowest.loss):
            self._lowest = Lowest(step, loss, step, loss)
            self._run.summary["validation/lowest_step"] = step

    def log_inputs(self, inputs: Sequence[Input]) -> None:
        """Log artifacts that the run used, with facts alone."""
        import wandb

        for given in inputs:
            artifact = wandb.Artifact(given.name, type=given.kind, metadata=dict(given.metadata))
            with artifact.new_file("facts.json") as file:
                file.write(json.dumps(given.metadata, indent=1))
            # `use_artifact` refuses to work offline; this is what it calls where a run makes its own input.
            self._run._log_artifact(  # pyright: ignore[reportPrivateUsage]
                artifact, aliases=["latest"], is_user_created=True, use_after_commit=True
            )

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        import wandb

        images = [
            wandb.Image(str(image), caption=f"{row.prompt} (seed {row.seed}){named}")
            for row in rows
            for image, named in ((row.path, ""), (row.base_path, ", base model"))
            if image is not None
        ]
        self._run.log({"previews/pictures": images, "step": step})

    def log_gallery(self, rows: Sequence[tuple[int, PreviewRow]]) -> None:
        """Log one table of all steps. W&B filters and groups its rows by prompt, seed and step."""
        import wandb

        table = wandb.Table(columns=["prompt", "seed", "step", "base", "tuned"])
        for step, row in rows:
            base = wandb.Image(str(row.base_path)) if row.base_path else None
            table.add_data(row.prompt, row.seed, step, base, wandb.Image(str(row.path)))
        self._run.log({"tables/previews": table, "step": max(step for step, _ in rows)})

    def log_scored(self, images: Sequence[ScoredImage]) -> None:
        """Log one table of all scored checkpoints beside the base model."""
        import wandb

        names = list(dict.fromkeys(name for image in images for name in image.scores))
        table = wandb.Table(
            columns=["prompt", "kind", "seed", "step", "base", "tuned", *names, "nearest", "nearest training image"]
        )
        for image in images:
            nearest = wandb.Image(str(image.nearest_path)) if image.nearest_path else None
            table.add_data(
                *(image.prompt, image.kind, image.seed, image.step),
                *(wandb.Image(str(image.base_path)), wandb.Image(str(image.path))),
                *(image.scores.get(name) for name in names),
                *(image.nearest, nearest),
            )
        self._run.log({"tables/scores": table, "step": max(image.step for image in images)})

    def alert(self, title: str, text: str) -> None:
        """Send an alert, which W&B passes on as the user chose. Offline it waits for the upload."""

        self._run.alert(title, text, level="WARN")

    def log_files(self, files: LoggedFiles) -> None:
        """Log an artifact."""
        import wandb

        artifact = wandb.Artifact(files.name, type=files.kind, metadata=dict(files.metadata))
        for path, name in files.named():
            if path.is_dir():
                # A whole pipeline has gigabytes: it is uploaded from where it is.
                artifact.add_dir(str(path), name or None, policy="immutable", skip_cache=True)
            else:
                artifact.add_file(str(path), name, skip_cache=True)
        self._run.log_artifact(artifact, aliases=list(files.aliases))

    def finish(self, exit_code: int) -> None:
        import wandb

        try:
            self._run.finish(exit_code=exit_code)
        finally:
            # Otherwise wandb does this at the interpreter's exit, where nothing bounds it.
            wandb.teardown(exit_code)

    def wait_for_upload(self, seconds: float) -> None:
        """Wait while the uploader works and the server responds. Says what to do where the upload did not succeed."""
        if self._upload is None:
            return
        began, is_told = time.monotonic(), False
        while not self._ends_within(CHECK_SECONDS):
            waited = time.monotonic() - began
            if waited > seconds or not answers(self._server):
                break
            if waited > QUIET_SECONDS and not is_told:
                logger.warning("W&B: still uploading to %s; waiting for at most %d s.", self._server, seconds)
                is_told = True
        if not self._is_uploaded():
            self._end_upload()
            logger.warning("W&B: the upload to %s is not complete. %s", self._server, self._kept())

    def _ends_within(self, seconds: float) -> bool:
        assert self._upload is not None
        try:
            self._upload.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _is_uploaded(self) -> bool:
        # `wandb sync` leaves this mark; its exit code is 0 also where the server refused the run.
        return self._upload is not None and self._upload.poll() == 0 and any(self.folder.glob("*.wandb.synced"))

    def _end_upload(self) -> None:
        if self._upload is not None and self._upload.poll() is None:
            self._upload.kill()
            self._upload.wait()

    def abandon(self) -> None:
        import psutil

        for child in psutil.Process().children():
            if child.name() == "wandb-core":
                child.kill()
        self._end_upload()

    def notes(self) -> list[str]:
        shown = f"W&B: wandb leet {shlex.quote(str(self.folder.parent))} shows the run in the terminal"
        if not self._is_uploaded():
            return [f"{shown}; {self._sync_command()} uploads it."]
        if all(any(part.glob("*.wandb.synced")) for part in self.folder.parent.glob("offline-run-*")):
            return [f"{shown}; it is uploaded to {self._server}."]
        return [f"{shown}; its last part is uploaded to {self._server}, {self._sync_command()} uploads the others."]
