"""Hashes of a model's parts, stored so weights are hashed once. They are beside the caches, and found by the names,
sizes and times of the weights' files. A record is one small file that is written aside and renamed: several processes
may write the same one, and any of them may be killed."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from finetune.batches.store import fingerprint
from finetune.files import is_of_another_user, remove_left_behind, write_atomically
from finetune.models.family import ModelFamily, ModelSource
from finetune.models.loading.file_stamps import Stamps, file_stamps
from finetune.models.parts import PARTS, ModelParts, Part, load_sequentially
from finetune.plurals import plural

Hashes = dict[Part, list[str]]
"""One hash for each module of a part."""
VERSION = 1
"""Raised whenever `fingerprint` or the way that weights are read changes."""
SECONDS_TO_SETTLE = 2.0
"""A file that was changed so shortly before it was read may have been changed while it was."""


def hashed_parts(
    family: ModelFamily, source: ModelSource, folder: Path, warn: Callable[[str], None] = lambda text: None
) -> tuple[ModelParts, Hashes]:
    """Load and drop each part in turn. Return the parts and their hashes. The hashes are stored in `folder`/hashes."""
    began = time.time()
    known = read_record(record_file(source, folder))
    hashes: Hashes = {}

    def look(part: Part, modules: Sequence[nn.Module]) -> None:
        kept = known.get(part, [])
        hashes[part] = kept if len(kept) == len(modules) else [fingerprint(module) for module in modules]

    parts = load_sequentially(family, source, look)
    newest = max((max(stamp[2:]) for stamp in file_stamps(source)), default=0) / 1e9
    if hashes != known and newest < began - SECONDS_TO_SETTLE:
        try:
            write_record(record_file(source, folder), hashes)
        except OSError as error:
            warn(f"cache: the hashes of the weights could not be kept ({error}); they are computed at each start.")
    return parts, hashes


def record_file(source: ModelSource, folder: Path) -> Path:
    """Return the file of the hashes for the source's present files."""
    read_wide = replace(source, as_stored=False)  # hashes are those of float32 however weights are kept
    key = hashlib.sha256(json.dumps([VERSION, repr(read_wide), file_stamps(source)]).encode()).hexdigest()[:40]
    return folder / "hashes" / f"{key}.json"


def refuse_changed_files(source: ModelSource, before: Stamps) -> None:
    """Raise ValueError if a file of the model has changed. Its parts are read again at the end of a run."""
    now = {stamp[:3] for stamp in file_stamps(source)}
    if changed := sorted({name for name, *_ in now ^ {stamp[:3] for stamp in before}}):
        raise ValueError(
            f"model.source: {plural(len(changed), 'file')} of {source.location} changed while the run was going "
            f"(first: {changed[0]}), so nothing was exported. Restore them and run the same command again: it exports "
            "the last checkpoint."
        )


def read_record(path: Path) -> Hashes:
    """Return the hashes in a record, empty without a readable one."""
    try:
        content = json.loads(path.read_text())
        hashes: Hashes = {part: list(content[part]) for part in PARTS}
        are_valid = all(re.fullmatch("[0-9a-f]{64}", text) for texts in hashes.values() for text in texts)
        return hashes if are_valid else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_record(path: Path, hashes: Hashes) -> None:
    """Write a record that is complete or absent. Another user's unreadable one stays."""
    if is_of_another_user(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_behind(path.parent)
    write_atomically(path, json.dumps(hashes))
