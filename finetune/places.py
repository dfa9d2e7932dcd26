"""Which folders of a run may not be in one another; torch-free."""

import os
from collections.abc import Iterator
from pathlib import Path

from finetune.command_line import as_flat
from finetune.config import TrainConfig
from finetune.runfolder import cache_folder

READ = ("data.folder", "mask.folder", "prior.folder")
"""Options that name what is only read: folders, or for data the id of a dataset."""


def refuse_nested_folders(config: TrainConfig) -> None:
    """Raises ValueError where a folder that is written to is, contains, or is in one that is read or written
    otherwise."""
    found = list(nested_folders(config))
    if found:
        raise ValueError("\n".join(found))


def nested_folders(config: TrainConfig) -> Iterator[str]:
    """Yields a sentence for each pair of folders that are one another's."""
    options = as_flat(config)
    output, cache = Path(config.output.folder), cache_folder(config.cache)
    read = {key: Path(options[key]) for key in READ if options.get(key) and os.path.isdir(options[key])}
    for key, folder in read.items():
        for written, place in (("output.folder", output), ("cache.folder", cache)):
            if relation := related(place, folder):
                yield (
                    f"{written}: {place} {relation} {key} {folder}, so what is written would be read as images, or "
                    "deleted with them. Use a folder beside it."
                )
    if relation := related(output, cache):
        yield (
            f"output.folder: {output} {relation} cache.folder {cache}, which other runs share. Use a folder beside it."
        )
    if os.path.isdir(config.model.source) and related(output, Path(config.model.source)) == "is":
        yield f"output.folder: {output} is model.source, which is never written to. Use another folder."


def related(one: Path, other: Path) -> str | None:
    """Returns how two folders are related, links followed: "is", "is in" or "contains"; None where they are apart."""
    first, second = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    if first == second:
        return "is"
    if first.is_relative_to(second):
        return "is in"
    return "contains" if second.is_relative_to(first) else None
