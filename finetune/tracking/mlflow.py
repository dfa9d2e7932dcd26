"""MLflow: a run in a local database, or on a server.

MLFLOW_TRACKING_URI names the server.
"""

import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image

from finetune.processes.signals import EXIT_CODE
from finetune.tracking.backend import Input, LoggedFiles, PreviewRow, ScoredImage, TrackedRun

QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default it waits for a server that is gone for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Variables of MLflow that are set where the user has set none."""
RUN_TAG = "finetune.run_id"
"""MLflow chooses its own ids of runs; ours is a tag, by which a resumed run is found."""
TABLES_TAG = "mlflow.loggedArtifacts"
"""Artifacts that MLflow shows as tables (mlflow 3.17, `MLFLOW_LOGGED_ARTIFACTS`)."""
MOST_PARAMS, LONGEST_PARAM, LONGEST_TAG, LONGEST_DIGEST = 100, 6000, 5000, 36
"""Limits of mlflow 3.17: parameters in a call, and characters."""


class MLflow:
    """A run of the experiment that is called as the project. A resumed run continues the same MLflow run."""

    def __init__(self, run: TrackedRun) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        folder = run.folder.absolute() / "mlflow"
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').as_posix()}"
        is_local = not os.environ.get("MLFLOW_TRACKING_URI")
        if is_local:
            folder.mkdir(exist_ok=True)
        self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        place = (folder / "artifacts").as_uri() if is_local else None
        found = self._client.get_experiment_by_name(run.project)
        self._experiment = found.experiment_id if found else self._client.create_experiment(run.project, place)
        known = self._client.search_runs([self._experiment], f"tags.`{RUN_TAG}` = '{run.id}'", max_results=1)
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            tags = {RUN_TAG: run.id} | ({"tags": ", ".join(run.tags)} if run.tags else {})
            self._id = self._client.create_run(self._experiment, run_name=run.name, tags=tags).info.run_id
        self._log_config(run.config, set(known[0].data.params) if known else set())

    def _log_config(self, config: Mapping[str, object], known: set[str]) -> None:
        """Log the options as parameters and as a file. MLflow never changes a parameter, and replaces a file."""
        from mlflow.entities import Param

        params = [Param(key, value[:LONGEST_PARAM]) for key, value in flattened(config) if key not in known]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[start : start + MOST_PARAMS])
        self._client.log_dict(self._id, dict(config), "config.json")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        self._client.log_batch(self._id, metrics=[Metric(key, value, now, step) for key, value in metrics.items()])

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        for number, row in enumerate(rows):
            with Image.open(row.path) as image:
                self._client.log_image(self._id, image.convert("RGB"), key=f"previews/{number:02d}", step=step)

    def log_inputs(self, inputs: Sequence[Input]) -> None:
        """Log the dataset as an input. MLflow has none for base models, so theirs are tags."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        for given in inputs:
            facts = json.dumps(given.metadata)
            if given.kind == "dataset":
                digest = str(given.metadata.get("fingerprint", given.name))[:LONGEST_DIGEST]
                dataset = Dataset(given.name, digest, "local", json.dumps({}), profile=facts)
                tag = InputTag("mlflow.data.context", "training")
                self._client.log_inputs(self._id, [DatasetInput(dataset, [tag])])
            else:
                self._client.set_tag(self._id, given.kind, given.name)
                self._client.set_tag(self._id, f"{given.kind}.facts", facts[:LONGEST_TAG])

    def log_gallery(self, rows: Sequence[tuple[int, PreviewRow]]) -> None:
        """Log one table of all previews."""
        cells = [
            [row.prompt, row.seed, step, self._image(row.base_path, "previews"), self._image(row.path, "previews")]
            for step, row in rows
        ]
        self._log_table("previews", ["prompt", "seed", "step", "base", "tuned"], cells)

    def log_scored(self, images: Sequence[ScoredImage]) -> None:
        """Log one table of the images of all scored checkpoints."""
        names = list(dict.fromkeys(name for image in images for name in image.scores))
        columns = ["prompt", "kind", "seed", "step", "base", "tuned", *names, "nearest", "nearest training image"]
        cells = [
            [
                *(image.prompt, image.kind, image.seed, image.step),
                *(self._image(image.base_path, "base"), self._image(image.path, f"step_{image.step:06d}")),
                *(image.scores.get(name) for name in names),
                *(image.nearest, self._image(image.nearest_path, "training")),
            ]
            for image in images
        ]
        self._log_table("scores", columns, cells)

    def _image(self, path: Path | None, folder: str) -> dict[str, str] | None:
        """Copy an image, and return the cell that shows it."""
        if path is None:
            return None
        place = f"table_images/{folder}"
        self._client.log_artifact(self._id, str(path), place)
        name = f"{place}/{path.name}"
        return {"type": "image", "filepath": name, "compressed_filepath": name}

    def _log_table(self, name: str, columns: list[str], cells: list[list[object]]) -> None:
        """Replace a table. It has the form of `MlflowClient.log_table`, which would add to an older one."""
        path = f"tables/{name}.json"
        self._client.log_dict(self._id, {"columns": columns, "data": cells}, path)
        tags = self._client.get_run(self._id).data.tags
        shown = json.loads(tags.get(TABLES_TAG, "[]"))
        if (entry := {"path": path, "type": "table"}) not in shown:
            self._client.set_tag(self._id, TABLES_TAG, json.dumps([*shown, entry]))

    def log_files(self, files: LoggedFiles) -> None:
        """Copy files and folders. Each version with a name of its own, such as step-200, has a folder."""
        version = next((alias for alias in files.aliases if alias not in ("latest", "best")), "")
        place = "/".join(part for part in (files.name, version) if part)
        for path, name in files.named():
            inner = name if path.is_dir() else name.rpartition("/")[0]
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(self._id, str(path), "/".join(part for part in (place, inner) if part))
        self._client.log_dict(self._id, {"kind": files.kind, **files.metadata}, f"{place}/facts.json")
        if "best" in files.aliases:
            self._client.set_tag(self._id, "best", place)

    def alert(self, title: str, text: str) -> None:
        """Write a tag, because MLflow sends no messages."""
        self._client.set_tag(self._id, f"alert.{title}", text[:LONGEST_TAG])

    def finish(self, exit_code: int) -> None:
        status = {0: "FINISHED", EXIT_CODE: "KILLED"}.get(exit_code, "FAILED")
        self._client.set_terminated(self._id, status=status)

    def notes(self) -> list[str]:
        if self._uri.startswith("sqlite:"):
            return [f"MLflow: mlflow ui --backend-store-uri {shlex.quote(self._uri)} (from pip install mlflow)"]
        server = urlsplit(self._uri)
        host = server.netloc.rpartition("@")[2]  # before it may be a password
        return [f"MLflow: run {self._id} of experiment {self._experiment} on {host or server.scheme}."]


def flattened(values: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield keys with dots and texts, in the characters that MLflow allows."""
    for key, value in values.items():
        name = re.sub(r"[^\w\-. :/]", "_", f"{before}{key}")
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
