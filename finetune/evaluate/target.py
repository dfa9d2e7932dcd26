"""Targets of an evaluation: run folders, adapter files, pipeline folders."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from finetune.files import file_sha256

DIFFUSERS_FILE, PEFT_FOLDER = "pytorch_lora_weights.safetensors", "peft"
SMALL_BYTES = 2_000_000_000
"""Files up to here are hashed; larger ones are known by size and time of change."""


@dataclass(frozen=True)
class Target:
    """Weights to draw with."""

    name: str
    """As it is called in tables and scores.jsonl."""
    kind: Literal["base", "adapter", "pipeline"]
    path: Path | None
    """The file or folder; None for the base model."""
    embeddings: tuple[Path, ...] = field(kw_only=True, default=())
    """Files of new tokens."""
    step: int | None
    digest: str
    """SHA-256 in hex of the weights, or of what tells them apart."""

    @property
    def label(self) -> str:
        """The name of its folder of images, which no other weights have."""
        start = "base" if self.kind == "base" else "target" if self.step is None else f"step_{self.step:06d}"
        return f"{start}-{self.digest[:10]}"


def base_target(source: str, revision: str | None) -> Target:
    """Describe the base model."""
    path = Path(source)
    digest = weights_digest(path) if path.exists() else hashlib.sha256(f"{source}@{revision}".encode()).hexdigest()
    return Target("base model", "base", None, None, digest)


def find_targets(given: Sequence[str]) -> list[Target]:
    """Find what each argument names. Two with equal weights are refused."""
    found = [find_target(Path(each)) for each in given]
    known: dict[str, Target] = {}
    for target in found:
        if target.digest in known:
            raise ValueError(
                f"targets: {known[target.digest].name} and {target.name} have the same weights. Name one of them."
            )
        known[target.digest] = target
    return found


def find_target(path: Path) -> Target:
    """Find the weights that a path names."""
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"targets: {path} is not a safetensors file, expected one with an adapter.")
        return Target(path.name, "adapter", path, step_of_file(path), weights_digest(path))
    if (path / "model_index.json").is_file():
        return Target(path.name or str(path), "pipeline", path, None, weights_digest(path))
    if (path / "run.json").is_file() or (path / "export").is_dir():
        return of_run(path)
    raise ValueError(
        f"targets: {path} is not the folder of a finished run (export), of a pipeline (model_index.json), or a "
        "safetensors file. Name one of these."
    )


def of_run(folder: Path) -> Target:
    """Find the export of a run. It is a pipeline, or adapters of any layout, with the new tokens."""
    export, step = folder / "export", step_of_run(folder)
    name = folder.resolve().name
    if (export / "model_index.json").is_file():
        return Target(name, "pipeline", export, step, weights_digest(export))
    places = [export / DIFFUSERS_FILE, *sorted(export.glob("*.safetensors")), export / PEFT_FOLDER]
    adapter = next((place for place in places if place.exists()), None)
    tokens = tuple(sorted((export / "embeddings").glob("*.safetensors")))
    if adapter is None and not tokens:
        raise ValueError(
            f"targets: {export} has neither adapters, new tokens nor a pipeline, expected the export of a finished "
            "run. Run its command again to finish it."
        )
    digest = hashlib.sha256("".join(map(weights_digest, filter(None, (adapter, *tokens)))).encode()).hexdigest()
    return Target(name, "adapter", adapter, step, digest, embeddings=tokens)


def step_of_run(folder: Path) -> int | None:
    """Read the step that a finished run exported."""
    try:
        status = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return int(status.get("exported_step", status["steps"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def step_of_file(path: Path) -> int | None:
    """Read the steps from the metadata of an adapter."""
    try:
        with safe_open(path, framework="np") as file:
            steps = (file.metadata() or {}).get("ss_steps", "")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"targets: {path} does not open as safetensors ({error}). Copy or export it again.") from error
    return int(steps) if steps.isdigit() else None


def weights_digest(path: Path) -> str:
    """Hash a file, or the files of a folder with their names."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    parts = [[file.relative_to(path).as_posix(), identity(file)] for file in files if not file.name.startswith(".")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def identity(file: Path) -> str:
    """Tell a file's content apart from others."""
    status = file.stat()
    return file_sha256(file) if status.st_size <= SMALL_BYTES else f"{status.st_size} {status.st_mtime_ns}"
