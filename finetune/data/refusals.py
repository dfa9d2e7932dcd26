"""Refuse what is not a dataset to train on."""

import re
import shlex
from pathlib import Path

from finetune.config.mask import MaskConfig
from finetune.json_text import parse_json

CORRECT_FILES = (
    "Correct these, or let preparation leave such images out: {prepare}\n"
    "Where captions are missing: add .txt files, let preparation write some (--captions.captioner), or train without "
    "(--data.captions none)."
)


def prepare_command(folder: str) -> str:
    """Write the command that makes a usable dataset of a folder."""
    return f"python -m datasets_prep --source {shlex.quote(folder)} --output PREPARED"


def refuse_unfinished(folder: Path) -> None:
    """Refuse an unfinished preparation, which may lack images."""
    try:
        state = parse_json((folder / ".prep" / "state.json").read_bytes())
    except (OSError, ValueError):
        return
    if isinstance(state, dict) and not state.get("is_done"):
        raise ValueError(
            f"data.folder: the preparation of {folder} was not finished. Run the same `python -m datasets_prep` "
            "command again; it continues from there."
        )


def refuse_no_dataset(folder: str) -> None:
    """Refuse what is neither a folder nor a Hub dataset's id."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ValueError(
            f"data.folder: {folder} is a file, expected a folder. Use the folder that contains it: {path.parent}"
        )
    if not path.is_dir() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", folder) is None:
        raise FileNotFoundError(
            f"data.folder: there is no folder {folder}. Expected a folder of images with captions, or a Hub dataset "
            "as owner/name. Check the spelling, or make one: python -m datasets_prep --source FOLDER --output PREPARED"
        )


def refuse_masks(folder: str, mask: MaskConfig, kinds: tuple[str, ...]) -> None:
    """Refuse kinds of masks that tables do not have."""
    if mask.kind in kinds:
        raise ValueError(
            f"mask.kind: got {mask.kind}, but the images of {folder} are in tables, in which there are none. "
            "Use a folder of image files, or prepare images and masks together."
        )
