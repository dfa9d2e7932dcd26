"""Files of a folder, and other entries that cannot be read."""

import os
import posixpath
import stat
from collections.abc import Iterable
from pathlib import Path

from datasets_prep.records import Item, Rejected
from finetune.data.captions.reading import is_unicode
from finetune.data.listing import Findings


def walk(root: str, skipped: Iterable[Path], findings: Findings) -> tuple[list[Item], list[Rejected]]:
    """List regular files, and everything else as rejected. Both are sorted by the bytes of their paths. Each real
    folder is entered once, so loops of links end; links to folders come last, so files keep their real path. The
    folders `skipped` are not entered. Hidden names are only noted."""
    items, rejected, folders, links = [], [], [""], []
    entered = {_identity(os.stat(path)) for path in skipped if path.exists()}
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            identity = _identity(os.stat(os.path.join(root, folder)))
            if identity in entered:
                rejected.append(Rejected(folder, "not_a_file", "a link to a folder that is read already, or not to be"))
                continue
            names = os.listdir(os.path.join(root, folder))
        except OSError as error:
            rejected.append(Rejected(folder or ".", "unreadable", f"folder cannot be listed: {error.strerror}"))
            continue
        entered.add(identity)
        for name in sorted(names, key=os.fsencode, reverse=True):
            source = posixpath.join(folder, name)
            path = os.path.join(root, source)
            if name.startswith("."):
                findings.warn("hidden files and folders, which are not looked at", source)
                continue
            try:
                status = os.stat(path)
            except OSError as error:
                rejected.append(Rejected(source, "unreadable", str(error.strerror)))
                continue
            if stat.S_ISDIR(status.st_mode):
                (links if os.path.islink(path) else folders).append(source)
            elif not stat.S_ISREG(status.st_mode):
                rejected.append(Rejected(source, "not_a_file", "a pipe, socket or device"))
            elif not is_unicode(source):  # load_dataset would refuse the whole listing because of one such name
                rejected.append(Rejected(source, "unreadable", "its path is not UTF-8; rename it"))
            else:
                items.append(Item(source, stamp_of(status)))
    items.sort(key=lambda item: os.fsencode(item.source))
    return items, sorted(rejected, key=lambda left: os.fsencode(left.source))


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return a file's size, and when it was modified and changed."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
