"""OUT/machines.json: the machines and software of each start of a run."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from finetune.report.rows import finite, items, objects, read_json, whole

FILE = "machines.json"
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "safetensors", "wandb")


@dataclass(frozen=True)
class Start:
    """One start of a run."""

    step: int
    """The step that it continued from."""
    machines: tuple[str, ...]
    """Each in words."""
    versions: dict[str, str]


def this_machine(devices: Sequence[str]) -> dict[str, object]:
    """Describe this machine with the GPUs that it trains on."""
    return {
        "processors": os.cpu_count(),
        "kind": platform.machine(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "devices": list(devices),
    }


def versions() -> list[tuple[str, str]]:
    """List the versions of software on this machine."""
    found = [("Python", platform.python_version()), ("system", f"{platform.system()} {platform.machine()}")]
    for package in PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(starts: Sequence[Start]) -> list[tuple[str, str]]:
    """List the machines in order, with the step that each began at."""
    changes: list[tuple[int, str]] = []
    for start in starts:
        text = " and ".join(counted(start.machines))
        if text and (not changes or text != changes[-1][1]):
            changes.append((start.step, text))
    if len(changes) == 1:
        return [("hardware", changes[0][1])]
    return [(f"from step {step:,}", text) for step, text in changes] or [("hardware", "not recorded")]


def software(starts: Sequence[Start]) -> list[tuple[str, str]]:
    """List the versions that the run was made with. Where they changed, all are named in order."""
    names = dict.fromkeys(name for start in starts for name in start.versions)
    found = [(name, [start.versions[name] for start in starts if name in start.versions]) for name in names]
    return [(name, ", then ".join(dict.fromkeys(texts))) for name, texts in found]


def read_starts(folder: Path, last_step: int | None) -> list[Start]:
    """Read the starts that trained what is there. A start whose steps were made again, or without steps, is omitted."""
    found = [read_start(each) for each in objects(read_json(folder / FILE).get("starts"))]
    kept = [start for start, later in pairwise(found) if start.step < later.step] + found[-1:]
    trained = [start for start in kept if last_step is None or start.step < last_step]
    return trained or kept[-1:]


def read_start(given: dict[str, Any]) -> Start:
    """Read one start, whatever it contains."""
    known = given.get("versions")
    named = {str(name): str(text) for name, text in known.items()} if isinstance(known, dict) else {}
    return Start(whole(given.get("step")) or 0, tuple(in_words(each) for each in objects(given.get("machines"))), named)


def in_words(machine: dict[str, Any]) -> str:
    """Describe a machine in words, the GPUs first."""
    parts = counted([str(each) for each in items(machine.get("devices"))])
    if (num := whole(machine.get("processors"))) is not None:
        parts.append(f"{num} processors ({machine.get('kind', 'of unknown kind')})")
    if (size := finite(machine.get("memory_gb"))) is not None:
        parts.append(f"{size:.0f} GiB of memory")
    return ", ".join(parts)


def counted(texts: Sequence[str]) -> list[str]:
    """List each text once, with its number where there are several."""
    return [text if texts.count(text) == 1 else f"{texts.count(text)} × {text}" for text in dict.fromkeys(texts)]
