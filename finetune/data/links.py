"""Refuse links out of a folder of images. Captions behind them would end up in exports."""

import os
from collections.abc import Iterator

from finetune.plurals import first_few

HUB_REPOSITORIES = ("datasets--", "models--", "spaces--")
"""How the Hub's cache begins the names of its folders, in which snapshots/ links to blobs/."""


def refuse_links_out(folder: str, option: str) -> None:
    """Raise ValueError where links below a folder lead out of it. `option` is the one that allows them."""
    found = [os.path.relpath(path, folder) for path in sorted(_links(folder), key=os.fsencode)]
    if found:
        raise links_refused(folder, found, option)


def links_refused(folder: str, names: list[str], option: str) -> ValueError:
    """Return the error for links that lead out."""
    return ValueError(
        f"{option}: links in {folder} lead out of it ({len(names):,}): {first_few(names)}. Put the files themselves "
        f"there, or set {option} true if you know where these lead."
    )


def leads_out(path: str, folder: str) -> bool:
    """Tell if a link leads out of a folder and its repository."""
    end, root = os.path.realpath(path), os.path.realpath(folder)
    parts = root.split(os.sep)
    for place in range(1, len(parts)):
        if parts[place] == "snapshots" and parts[place - 1].startswith(HUB_REPOSITORIES):
            root = os.sep.join(parts[:place])
            break
    return os.path.exists(end) and os.path.commonpath([end, root]) != root


def _links(folder: str) -> Iterator[str]:
    """Yield the links below a folder that lead out of it. Hidden folders are skipped."""
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as children:
                for child in children:
                    if child.is_symlink():
                        if leads_out(child.path, folder):
                            yield child.path
                    elif child.is_dir() and not child.name.startswith("."):
                        pending.append(child.path)
        except OSError:  # reported when the folder is listed
            continue
