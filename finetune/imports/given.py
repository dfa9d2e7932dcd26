"""Options and folders of another trainer's config; torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.config.trainers.formats import Content, read_file
from finetune.config.trainers.tables import Table
from finetune.data.folder_repeats import NUMBERED

LORA, FULL, TOKENS, SUBJECT = "recipes.lora", "recipes.full", "recipes.textual_inversion", "recipes.dreambooth"


@dataclass(frozen=True)
class Folder:
    """Images of their config."""

    where: str
    """Their option."""
    path: str
    repeats: float = 1
    is_class: bool = False
    prompt: str | None = None
    """The class, where their config names it."""
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    """Their options for this folder."""


@dataclass(frozen=True)
class Given:
    """A config of another trainer."""

    table: Table
    options: Mapping[str, object]
    folders: tuple[Folder, ...] = ()
    method: str = "lora"
    """lora, full or tokens."""
    notes: tuple[str, ...] = ()
    """What could not be read."""
    own: Mapping[str, object] = field(default_factory=dict[str, object])
    """Our options that follow from several of theirs."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names of the options by those of the file, where a GUI has others."""

    @property
    def is_several(self) -> bool:
        """True for several folders of images or of class images."""
        return any(len([each for each in self.folders if each.is_class == kind]) > 1 for kind in (False, True))

    @property
    def recipe(self) -> str:
        """Our recipe. Class images or a subject's prompt make it DreamBooth; in SimpleTuner it is a caption of all."""
        has_prompt = "instance_prompt" in self.options and self.table.name != "SimpleTuner"
        is_subject = has_prompt or any(folder.is_class for folder in self.folders)
        is_subject = is_subject and not self.is_several
        if self.method == "tokens":
            return TOKENS
        return SUBJECT if is_subject else LORA if self.method == "lora" else FULL


def named_file(name: object, base: Path) -> tuple[Content | None, list[str]]:
    """Read a file that a config names. Also return what is wrong."""
    given = Path(str(name)).expanduser()
    path = next((each for each in (given, base / given, base / given.name) if each.is_file()), None)
    if path is None:
        return None, [f"no file {name}, here or beside the config."]
    try:
        return read_file(path), []
    except ValueError as error:
        return None, [str(error)]


def dotted(content: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Join sections by dots."""
    found: dict[str, object] = {}
    for key, value in content.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return found


def class_prompt(folder: Folder) -> str | None:
    """Return the class that the config or the folder's name says."""
    if folder.prompt:
        return folder.prompt
    inner = (
        sorted(path.name for path in Path(folder.path).iterdir() if path.is_dir()) if Path(folder.path).is_dir() else []
    )
    found = [match[2].strip() for name in [*inner, Path(folder.path).name] if (match := NUMBERED.fullmatch(name))]
    return found[0] if found else None
