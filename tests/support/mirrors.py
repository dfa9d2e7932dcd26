"""Run folders with mirrors, and storage that fails."""

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune.config.outputs import CheckpointConfig, OutputConfig
from finetune.config.recipes import LoRATrainConfig
from finetune.config.sections import DataConfig, ModelConfig
from finetune.config.train import TrainConfig
from finetune.data.remote.storage import StorageError
from finetune.files import size_and_sha256
from finetune.run_folder.mirror.claim import read_claim, write_claim
from finetune.run_folder.mirror.fetch import fetch_newest
from finetune.run_folder.mirror.storage import MirrorStorage
from finetune.run_folder.mirror.upload import Upload


@dataclass(frozen=True)
class FailsAfter(MirrorStorage):
    """Storage that is gone after a number of changes."""

    left: list[int] = field(default_factory=lambda: [0])

    def _count(self) -> None:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise StorageError("output.mirror: the storage is gone")

    def write(self, name: str, data: bytes) -> None:
        self._count()
        super().write(name, data)

    def put(self, name: str, file: Path) -> None:
        self._count()
        super().put(name, file)

    def remove(self, name: str) -> None:
        self._count()
        super().remove(name)


@dataclass(frozen=True)
class Mirrored:
    """A run folder and its mirror."""

    folder: Path
    url: str
    keep: int = 2

    @property
    def storage(self) -> MirrorStorage:
        return MirrorStorage(self.url, waits=())

    @property
    def config(self) -> TrainConfig:
        """Options of a run in the folder."""
        return LoRATrainConfig(
            model=ModelConfig(source="model"),
            data=DataConfig(folder="images"),
            output=OutputConfig(self.folder, mirror=self.url),
            checkpoint=CheckpointConfig(keep=self.keep),
        )

    def elsewhere(self, name: str = "elsewhere") -> "Mirrored":
        """Return the run on a machine without any of its files."""
        return replace(self, folder=self.folder.parent / name)

    def fetch(self) -> None:
        fetch_newest(self.config)

    def started(self, storage: MirrorStorage | None = None) -> Upload:
        """Begin as a run does; return its uploads."""
        self.fetch()
        claim = read_claim(self.storage).renewed()
        write_claim(self.storage, claim)
        return Upload(self.folder, storage or self.storage, claim, self.keep)

    def save(self, step: int) -> None:
        """Save a checkpoint and log a row, as training does."""
        text = f"weights of step {step}"
        place = self.folder / "checkpoints" / f"step_{step:06d}"
        shutil.rmtree(place, ignore_errors=True)
        (place / "export").mkdir(parents=True)
        for name in ("trained.safetensors", "optimizer.pt", "state.json", "config.yaml"):
            (place / name).write_text(f"{name}: {text}")
        manifest = {path.name: size_and_sha256(path) for path in place.iterdir() if path.is_file()}
        (place / "manifest.json").write_text(json.dumps(manifest))
        (place / "export" / "ink.safetensors").write_text(text)
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")
        (self.folder / "config.yaml").write_text("seed: 1\n")
        (self.folder / "previews").mkdir(exist_ok=True)
        (self.folder / "previews" / f"step_{step:06d}.png").write_bytes(text.encode())

    def rotate(self) -> None:
        """Remove all checkpoints but the newest, as training does."""
        for path in sorted((self.folder / "checkpoints").iterdir(), reverse=True)[self.keep :]:
            shutil.rmtree(path)

    def contents(self) -> dict[str, bytes]:
        """Return the files of the run by name, without marks and locks."""
        found = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}
        return {
            name: path.read_bytes()
            for name, path in found.items()
            if name != "mirror.json" and not any(part.startswith(".") for part in name.split("/"))
        }

    def steps_there(self) -> list[int]:
        """List the steps of whole checkpoints in the mirror."""
        names = [name for name in self.storage.sizes() if name.endswith("/manifest.json")]
        return sorted(int(name.split("/")[-2].removeprefix("step_")) for name in names)


def saved_run(folder: Path, url: str, *steps: int) -> Mirrored:
    """Make a run folder with checkpoints."""
    run = Mirrored(folder, url)
    folder.mkdir()
    for step in steps:
        run.save(step)
    return run
