"""trackio: a local project in the run folder."""

import os
from collections.abc import Mapping, Sequence

from finetune.tracking.backend import LoggedFiles, PreviewRow, TrackedRun


class Trackio:
    """A local trackio project in OUT/trackio. No dashboard is started and nothing is synced."""

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
        self._run.log(dict(metrics), step=step)

    def log_previews(self, rows: Sequence[PreviewRow], step: int) -> None:
        import trackio

        images = {
            f"previews/{number:02d}": trackio.Image(str(row.path), caption=f"{row.prompt} (seed {row.seed})")
            for number, row in enumerate(rows)
        }
        self._run.log(images, step=step)

    def log_files(self, files: LoggedFiles) -> None:
        """Copy files and folders into the project."""
        import trackio

        artifact = trackio.Artifact(files.name, type=files.kind, metadata=dict(files.metadata))
        for path, name in files.named():
            if path.is_dir():
                artifact.add_dir(str(path), name or None)
            else:
                artifact.add_file(str(path), name)
        self._run.log_artifact(artifact)

    def finish(self, exit_code: int) -> None:
        self._run.finish()

    def notes(self) -> list[str]:
        return [f"trackio: TRACKIO_DIR={os.environ['TRACKIO_DIR']} trackio show --project {self._project}"]
