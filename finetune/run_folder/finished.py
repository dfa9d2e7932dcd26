"""OUT/run.json: the mark of a complete run, with checksums of its export. The checksums are compared with the files
before a run is called finished. Files of others are ignored. Torch-free."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from safetensors import SafetensorError, safe_open

from finetune.config.facts import Resume, marked
from finetune.config.train import TrainConfig
from finetune.files import size_and_sha256, write_atomically
from finetune.plurals import first_few
from finetune.run_folder.checkpoints import complete_steps
from finetune.run_folder.fixed_options import refuse_changed_start
from finetune.run_folder.options import changed_options, different_values

STATUS_FILE = "run.json"
SMALL_FILES = (".json", "merges.txt", ".model")
"""Endings of configs and vocabularies; other text files are notes of the user."""


class Status(TypedDict):
    """The contents of run.json. `files` are size and SHA-256 by exported file."""

    steps: int
    exported_step: NotRequired[int]
    """Of the exported weights, where it is not the last."""
    stopped_early: NotRequired[bool]
    """True where later checkpoints were in vain (evaluate.patience)."""
    files: NotRequired[dict[str, dict[str, int | str]]]


def write_status(
    folder: Path, steps: int, exported: Iterable[Path], exported_step: int | None = None, *, stopped_early: bool = False
) -> None:
    """Record that the run is complete, with its exported files and folders."""
    files = sorted(file for path in exported for file in own_files(path))
    content = {
        "status": "finished",
        "steps": steps,
        **({} if exported_step in (None, steps) else {"exported_step": exported_step}),
        **({"stopped_early": True} if stopped_early else {}),
        "files": {file.relative_to(folder).as_posix(): size_and_sha256(file) for file in files},
    }
    write_atomically(folder / STATUS_FILE, json.dumps(content, indent=1))


def own_files(path: Path) -> list[Path]:
    """Return an exported file, or the files of an exported folder. Of a folder only the files that programs load."""
    if path.is_file():
        return [path]
    index = path / "model_index.json"
    names = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    parts = [part for part in path.glob("*/") if part.name in names or (part / "adapter_config.json").is_file()]
    endings = (".safetensors", *SMALL_FILES)
    found = [file for part in parts for file in part.iterdir() if file.is_file() and file.name.endswith(endings)]
    return found + ([index] if names else [])


def finished_message(config: TrainConfig, say: Callable[[str], None] = print) -> str | None:
    """Return the message for a complete run, None if work remains. `say` receives the reason where the run was complete
    before. Raises ValueError where the folder has a complete run with other options, or whose export is damaged and
    cannot be made again."""
    folder = config.output.folder
    checkpoints = [path for _, path in complete_steps(folder / "checkpoints")]
    if config.resume == "never" and checkpoints:
        raise ValueError(
            f"resume: got never, but {folder} holds a run. Choose another output.folder, or omit --resume to continue "
            "it."
        )
    status = status_or_warning(folder, say, has_checkpoints=bool(checkpoints))
    ended_early = status is not None and ends_early(config, status, checkpoints)
    if status is None or (status["steps"] < config.train.steps and checkpoints and not ended_early):
        refuse_changed_start(config)
        return None
    steps = status["steps"]
    if steps < config.train.steps and not ended_early:
        raise ValueError(
            f"output.folder: {folder} holds a finished run of {steps} steps whose checkpoints are gone, so it cannot "
            f"be continued to {config.train.steps}. Choose another output.folder."
        )
    saved_files = [folder / "config.yaml", *(path / "config.yaml" for path in checkpoints)]
    saved = next((path for path in saved_files if path.exists()), saved_files[0])
    changed = changed_options(config, saved)
    if changed or steps > config.train.steps:
        listed = ", ".join(changed) or f"train.steps {steps} -> {config.train.steps}"
        raise ValueError(
            f"output.folder: {folder} holds a finished run of {steps} steps with other options ({listed}). Choose "
            "another output.folder, or raise train.steps to continue it."
        )
    reasons = export_damage(folder, status.get("files"))
    reasons += different_values(config, saved, decides_export(config))
    if reasons and not checkpoints:
        raise ValueError(
            f"output.folder: the export of the finished run in {folder} is not what it should be "
            f"({first_few(reasons)}), and its checkpoints are gone, so it cannot be exported again. Restore the files, "
            "or train again in another output.folder."
        )
    if reasons:
        say(
            f"warning: the export of the finished run in {folder} is not what it should be ({first_few(reasons)}); it "
            "is made again from the last checkpoint."
        )
        return None
    if "files" not in status:
        say(
            f"warning: {folder / STATUS_FILE} is of version 0.1, which recorded no checksums of the export; its files "
            "can be opened, but whether they are what was written is not known."
        )
    report = folder / "report.html"
    seen = f" Its report: {report}." if report.exists() else ""
    early = f" of {config.train.steps}, after which later ones were in vain" if ended_early else ""
    return f"The run in {folder} is finished ({steps} steps{early}). Its model: {folder / 'export'}.{seen}"


def decides_export(config: TrainConfig) -> list[str]:
    """List the options that decide what is exported. Those of a choice do so only where checkpoints are scored."""
    found = marked(type(config), Resume.EXPORTED)
    return found if config.evaluate.every else [name for name in found if not name.startswith("evaluate.")]


def ends_early(config: TrainConfig, status: Status, checkpoints: Sequence[Path]) -> bool:
    """Tell if a run that was ended early would end there again. More steps or patience continue it."""
    saved = [path / "config.yaml" for path in checkpoints] + [config.output.folder / "config.yaml"]
    file = next((path for path in saved if path.exists()), None)
    if not status.get("stopped_early") or file is None:
        return False
    return not different_values(config, file, ["train.steps", "evaluate.every", "evaluate.patience"])


def status_or_warning(folder: Path, say: Callable[[str], None], *, has_checkpoints: bool) -> Status | None:
    """Return the contents of run.json, or None. A damaged one counts as missing if checkpoints can replace it."""
    try:
        return read_status(folder / STATUS_FILE)
    except ValueError as error:
        if not has_checkpoints:
            raise ValueError(
                f"{error} The checkpoints are gone too, so it is not known whether the export is complete. Restore the "
                "file, or choose another output.folder; what is exported stays as it is."
            ) from error
        say(f"warning: {error} The run continues from its last checkpoint, exports it again and writes a new one.")
        return None


def read_status(status_file: Path) -> Status | None:
    """Return the contents of run.json, None if it is missing. Raises ValueError if it is damaged."""
    if not status_file.exists():
        return None
    try:
        status = json.loads(status_file.read_text())
        status["steps"] = int(status["steps"])
        if any(recorded.keys() != {"size", "sha256"} for recorded in status.get("files", {}).values()):
            raise ValueError("a file without size and checksum")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"output.folder: {status_file} is damaged.") from error
    return status


def export_damage(folder: Path, recorded: dict[str, dict[str, int | str]] | None) -> list[str]:
    """List damaged exported files, as in "export/a.safetensors is missing". Without checksums, files are opened."""
    if recorded is None:
        return unreadable_weights(folder)
    found = []
    for name, expected in recorded.items():
        file = folder / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif file.stat().st_size != expected["size"]:
            found.append(f"{name} has {file.stat().st_size:,} bytes instead of {expected['size']:,}")
        elif size_and_sha256(file) != expected:
            found.append(f"{name} has other content")
    return found


def unreadable_weights(folder: Path) -> list[str]:
    """List exported safetensors files that cannot be opened or are truncated."""
    files = [file for file in sorted((folder / "export").rglob("*.safetensors")) if not file.name.startswith(".")]
    if not files:
        return ["export has no weights"]
    found = []
    for file in files:
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            found.append(f"{file.relative_to(folder)} does not open: {error}")
    return found
