"""The manifest of a checkpoint, compared with its files; torch-free."""

import json
from pathlib import Path

from finetune.files import size_and_sha256
from finetune.run_folder.mirror.contents import MANIFEST

NEEDED = ("state.json", "config.yaml")


def listed_files(manifest: bytes) -> dict[str, dict[str, int | str]]:
    """Return size and SHA-256 of the files that a manifest lists. Raises ValueError for anything else."""
    content = json.loads(manifest)
    if not isinstance(content, dict) or not all(name in content for name in NEEDED):
        raise ValueError("not what a run writes")
    return content


def manifest_damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, None where nothing is."""
    try:
        listed = listed_files((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        return f"{MANIFEST} does not read ({error})"
    for name, expected in listed.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if size_and_sha256(folder / name) != expected:
            return f"{name} is damaged: its checksum differs from the manifest's"
    return None
