"""The files of a model on disk or on the Hub."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.json_text import parse_json

WHOLE = 2**24
"""Files up to this many bytes are hashed whole, larger ones in NUM_SAMPLES places."""
NUM_SAMPLES = 64
SAMPLE = 2**16


@dataclass(frozen=True)
class ModelFiles:
    """A model that can be loaded."""

    model: str
    """The folder or Hub id."""
    revision: str | None
    """The commit of a Hub model; None for a folder."""

    def identity(self) -> str:
        """Identify the model by its commit, or a hash of its folder."""
        return f"{self.model}@{self.revision}" if self.revision is not None else folder_hash(Path(self.model))

    def file(self, name: str) -> Path:
        """Return the path of a model file, downloaded if needed."""
        if self.revision is None:
            return _local_file(Path(self.model), name)
        return Path(_fetch(self.model, name, self.revision))


def find_model(model: str, file_name: str = "config.json") -> ModelFiles:
    """Find a model by one of its files. Raises ValueError where it cannot be had."""
    path = Path(model).expanduser()
    if path.is_dir():
        _local_file(path, file_name)
        return ModelFiles(str(path), None)
    if path.exists() or model.startswith(("/", "./", "../", "~")) or model.count("/") != 1:
        raise ValueError(
            f"captions.model: {model} is not a folder, expected a model's folder or a Hub id such as owner/name."
        )
    return ModelFiles(model, Path(_fetch(model, file_name, None)).parent.name)


def check_type(files: ModelFiles, captioner: str, types: Sequence[str]) -> None:
    """Refuse a model of another architecture than the captioner's."""
    try:
        found = parse_json(files.file("config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"captions.model: the config.json of {files.model} is not JSON ({error}). Fetch it again."
        ) from None
    model_type = found.get("model_type") if isinstance(found, dict) else None
    if model_type not in types:
        raise ValueError(
            f"captions.model: {files.model} is a model of type {model_type}, expected {' or '.join(types)} for "
            f"captions.captioner {captioner}. Name another model or another captioner."
        )


def _local_file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise ValueError(
            f"captions.model: no {name} in {folder}, expected a model's folder. Save or fetch the model again."
        )
    return path


def _fetch(model: str, name: str, revision: str | None) -> str:
    from huggingface_hub import errors, hf_hub_download

    start = f"captions.model: {model}"
    try:
        return hf_hub_download(model, name, revision=revision)
    except errors.GatedRepoError as error:
        raise ValueError(f"{start} is gated: ask for access on its Hub page and log in: hf auth login.") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{start} is neither a folder nor on the Hub; if it is private, log in: hf auth login."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(
            f"{start} is not a folder, and the Hub cannot be reached. Fetch it while online: hf download {model}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ValueError(f"{start} has no {name} on the Hub, so this captioner cannot use it.") from error
    except errors.HFValidationError as error:
        raise ValueError(
            f"{start} is not a folder, expected a model's folder or a Hub id such as owner/name."
        ) from error


def folder_hash(folder: Path) -> str:
    """Hash a folder's files. Large files are hashed by size and samples, to save time. Training changes weights
    everywhere, so samples tell two models apart; a truncated file differs in size."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        if path.suffix.lower() in (".md", ".txt") and path.name != "merges.txt":
            continue
        total.update(f"{path.name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= WHOLE:
                total.update(file.read())
                continue
            for number in range(NUM_SAMPLES):
                file.seek((size - SAMPLE) * number // (NUM_SAMPLES - 1))
                total.update(file.read(SAMPLE))
    return total.hexdigest()[:24]


def digest(name: str, **parts: object) -> str:
    """Combine a short name with a hash of what results depend on."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return f"{name}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"
