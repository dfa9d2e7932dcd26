"""What a tracker is told and how TensorBoard and trackio write it down; W&B's is `tracking.wandb`."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class PreviewRow:
    """One preview picture; `base_path` is the untouched model's for the same prompt and seed."""

    prompt: str
    seed: int
    path: Path
    base_path: Path | None


@dataclass(frozen=True)
class LoggedFiles:
    """Files and folders of a run that belong together; `paths` are inside `folder`, or `folder` itself."""

    name: str
    """Letters, digits, `_`, `.` and `-`; no other run has it."""
    kind: str
    folder: Path
    paths: tuple[Path, ...]
    metadata: Mapping[str, Any]

    def named(self) -> list[tuple[Path, str]]:
        """Returns each path with its name relative to `folder`, empty for `folder` itself."""
        return [(path, path.relative_to(self.folder).as_posix().removeprefix(".")) for path in self.paths]


@dataclass(frozen=True)
class TrackedRun:
    """What every tracker knows about a run; `id` stays the same when the run is resumed."""

    folder: Path
    id: str
    project: str
    name: str
    tags: tuple[str, ...]
    mode: Literal["auto", "online", "offline"]
    config: Mapping[str, Any]


class Backend(Protocol):
    """One tracker, open from construction to `finish`; every call may raise or hang, `tracking.Tracker` copes."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers of a step."""
        ...

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        """Records the preview pictures of a step."""
        ...

    def log_files(self, files: LoggedFiles) -> None:
        """Records files and folders that the run made."""
        ...

    def finish(self, exit_code: int) -> None:
        """Closes the record on disk."""
        ...

    def wait_for_upload(self, seconds: float) -> None:
        """Waits, after `finish`, for what is still being sent elsewhere; gives up early where nobody answers."""
        ...

    def abandon(self) -> None:
        """Ends what `finish` waits for in vain; called from another thread."""
        ...

    def notes(self) -> list[str]:
        """Sentences for the user: where the record lies and how it is looked at."""
        ...


class TensorBoard:
    """Event files in OUT/tensorboard."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = run.folder / "tensorboard"
        self._writer = SummaryWriter(str(self._folder))
        self._writer.add_text("config", as_code(run.config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Writes a scalar for each number."""
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        """Writes each picture under the number of its row, its prompt as text beside it."""
        import numpy as np
        from PIL import Image

        for number, row in enumerate(rows):
            tag = f"previews/{number:02d}"
            with Image.open(row.path) as picture:
                self._writer.add_image(tag, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
            self._writer.add_text(tag, as_code({"prompt": row.prompt, "seed": row.seed}), step)
        self._writer.flush()

    def log_files(self, files: LoggedFiles) -> None:
        """Writes where the files are; TensorBoard keeps no files."""
        paths = [str(path) for path in files.paths]
        self._writer.add_text(f"files/{files.name}", as_code({"paths": paths, "kind": files.kind, **files.metadata}))

    def finish(self, exit_code: int) -> None:
        """Closes the event file."""
        self._writer.close()

    def wait_for_upload(self, seconds: float) -> None:
        """Nothing is sent anywhere."""

    def abandon(self) -> None:
        """Leaves the thread to itself."""

    def notes(self) -> list[str]:
        """Says how to look at it."""
        return [f"TensorBoard: tensorboard --logdir {self._folder}"]


class Trackio:
    """A local trackio project in OUT/trackio; no dashboard is started and nothing is synced."""

    def __init__(self, run: TrackedRun) -> None:
        # trackio reads its folder from the environment, once, when it is imported; the default is in the home folder.
        os.environ.setdefault("TRACKIO_DIR", str(run.folder.absolute() / "trackio"))
        import trackio

        self._project = run.project
        # The id makes the name unique: trackio finds the run to resume by name.
        self._run = trackio.init(
            run.project,
            name=f"{run.name}-{run.id}",
            config={key: value for key, value in run.config.items() if not key.startswith("_")},
            resume="allow",
            embed=False,
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs the numbers."""
        self._run.log(dict(metrics), step=step)

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        """Logs each picture under the number of its row."""
        import trackio

        pictures = {
            f"previews/{number:02d}": trackio.Image(str(row.path), caption=f"{row.prompt} (seed {row.seed})")
            for number, row in enumerate(rows)
        }
        self._run.log(pictures, step=step)

    def log_files(self, files: LoggedFiles) -> None:
        """Copies the files and folders into the project."""
        import trackio

        artifact = trackio.Artifact(files.name, type=files.kind, metadata=dict(files.metadata))
        for path, name in files.named():
            if path.is_dir():
                artifact.add_dir(str(path), name or None)
            else:
                artifact.add_file(str(path), name)
        self._run.log_artifact(artifact)

    def finish(self, exit_code: int) -> None:
        """Waits until everything is in the database."""
        self._run.finish()

    def wait_for_upload(self, seconds: float) -> None:
        """Nothing is sent anywhere."""

    def abandon(self) -> None:
        """Leaves the thread to itself."""

    def notes(self) -> list[str]:
        """Says how to look at it."""
        return [f"trackio: TRACKIO_DIR={os.environ['TRACKIO_DIR']} trackio show --project {self._project}"]


def as_code(values: Mapping[str, Any]) -> str:
    """Returns indented JSON as a Markdown code block, which TensorBoard shows as it stands."""
    lines = json.dumps(values, indent=2, ensure_ascii=False).splitlines()
    return "\n".join(f"    {line}" for line in lines)
