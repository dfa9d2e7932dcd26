"""Rules against folders of a run inside one another; torch-free."""

import os
from collections.abc import Iterator
from pathlib import Path

from finetune.config.facts import Mark, marked
from finetune.config.parse.dump import as_flat
from finetune.config.train import TrainConfig
from finetune.data.remote.storage import contain_each_other, is_url


def refuse_nested_folders(config: TrainConfig) -> None:
    """Raise ValueError if a written folder overlaps another one."""
    if found := list(nested_folders(config)):
        raise ValueError("\n".join(found))


def nested_folders(config: TrainConfig) -> Iterator[str]:
    """Yield one sentence per pair of folders that overlap."""
    yield from mirror_problems(config)
    output, cache = Path(config.output.folder), config.cache.place
    for key, folder in folders(config, Mark.READ):
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
    for key, model in folders(config, Mark.MODEL):
        for written, place in (("output.folder", output), ("cache.folder", cache)):
            if (relation := related(place, model)) in ("is", "is in"):
                yield f"{written}: {place} {relation} {key} {model}, which is never written to. Use a folder beside it."
        if related(model, output / "export") in ("is", "is in"):
            yield (
                f"output.folder: {key} {model} is the export of the run in {output}, which this run would replace. Use "
                "another folder."
            )


def mirror_problems(config: TrainConfig) -> Iterator[str]:
    """Yield what is wrong with the place of a mirror."""
    mirror = config.output.mirror
    if mirror is None:
        return
    if not is_url(mirror) or mirror.startswith(("file:", "local:")):
        yield f"output.mirror: got {mirror}, expected the URL of remote storage, such as s3://bucket/runs/ink."
        return
    given = [config.data.folder, *(each.folder for each in config.data.folders)]
    for folder in [folder for folder in given if folder is not None and is_url(folder)]:
        if contain_each_other(mirror, folder):
            yield f"output.mirror: {mirror} and data.folder {folder} overlap. Use a prefix beside the images."


def folders(config: TrainConfig, mark: Mark) -> list[tuple[str, Path]]:
    """List the marked options that name folders, and those folders."""
    given = as_flat(config)
    found = [(key, given[key]) for key in marked(type(config), mark) if given[key]]
    if mark is Mark.READ:
        listed = [(each.folder, each.mask_folder) for each in config.data.folders]
        found += [("data.folders", place) for places in listed for place in places if place is not None]
    return [(key, Path(place)) for key, place in found if os.path.isdir(place)]


def related(one: Path, other: Path) -> str | None:
    """Return how two folders overlap: "is", "is in", "contains" or None. Links are followed."""
    first, second = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    if first == second:
        return "is"
    if first.is_relative_to(second):
        return "is in"
    return "contains" if second.is_relative_to(first) else None
