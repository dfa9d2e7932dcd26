"""A folder replaced by a newer one, keeping others' files; torch-free."""

import shutil
from pathlib import Path

from finetune.files import give_usual_modes, put_in_place, sync_folder

ENDING = ".replaced"
"""The end of the older folder's name during the change; the name begins with a dot."""


def replace_folder(temporary: Path, path: Path) -> None:
    """Give a complete folder its final name. Files of others in the folder that it replaces are kept. A kill between
    the renames leaves the old folder beside its place, and the next call takes it from there."""
    replaced = path.with_name(f".{path.name}{ENDING}")
    if not path.exists() and replaced.exists():
        replaced.replace(path)
    give_usual_modes(temporary)
    copy_others(path, temporary)  # with the modes that they have
    sync_folder(temporary)
    shutil.rmtree(replaced, ignore_errors=True)
    if path.exists():
        path.replace(replaced)
    put_in_place(temporary, path)
    shutil.rmtree(replaced, ignore_errors=True)


def copy_others(old: Path, new: Path) -> None:
    """Copy the files of a folder that `new` does not have. Weights in subfolders are not copied: an earlier export may
    have split them into other files."""
    for path in sorted(old.rglob("*")) if old.is_dir() else []:
        place = path.relative_to(old)
        is_weights = len(place.parts) == 2 and path.name.endswith((".safetensors", ".safetensors.index.json"))
        if is_weights or (new / place).exists() or not (path.is_file() or path.is_symlink()):
            continue
        (new / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, new / place, follow_symlinks=False)


def clear_replaced(folder: Path) -> None:
    """Remove replaced folders that a kill between two renames left behind. The caller has the lock of `folder`. Where
    the new folder did not get its name, the older one gets it back."""
    for older in sorted(folder.glob(f".*{ENDING}")):
        place = folder / older.name.removeprefix(".").removesuffix(ENDING)
        if place.exists():
            shutil.rmtree(older, ignore_errors=True)
        else:
            older.replace(place)
