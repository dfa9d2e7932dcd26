"""Sources that are files: folders, and images named one by one."""

import os
import posixpath
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets_prep.captions.own import joined_entries, read_folder_entries, read_sidecars
from datasets_prep.records import Item, Listing, Rejected
from datasets_prep.sources.scan import stamp_of, walk
from finetune.data.captions.files import MARKUP_SUFFIXES, UNREAD_TEXT_SUFFIXES
from finetune.data.captions.names import JSON_SUFFIX, TEXT_SUFFIXES
from finetune.data.captions.reading import CaptionReading, is_unicode
from finetune.data.captions.text import decode_text
from finetune.data.hub import lists_of_folders
from finetune.data.links import leads_out, links_refused
from finetune.data.listing import Entry, Findings
from finetune.data.visible_files import FolderSource

BESIDE = (*TEXT_SUFFIXES, JSON_SUFFIX, *UNREAD_TEXT_SUFFIXES, *MARKUP_SUFFIXES)
"""Endings of files beside an image that may have its caption, read or not."""


@dataclass(frozen=True)
class FoldersSource:
    """The files in folders, named relative to the folder. With several folders, their names come first. Files with
    captions are items like all others; `entries` omits those that it used. A text file without an image of its name is
    not a caption: it is noted, keeps its entry, and is therefore rejected as not an image."""

    folders: Mapping[str, str]
    """Prefix of the names, empty or ending in "/" -> the real folder."""
    name: str
    skipped: tuple[str, ...]
    """Folders that are not entered."""
    reading: CaptionReading

    def listing(self, findings: Findings) -> Listing:
        items, rejected = [], []
        for prefix, root in self.folders.items():
            found, left_out = walk(root, [Path(path) for path in self.skipped], findings)
            lists = lists_of_folders(root, [item.source for item in found], findings)
            items += [Item(prefix + item.source, item.stamp) for item in found if item.source not in lists]
            rejected += [Rejected(prefix + left.source, left.reason, left.detail) for left in left_out]
        return sorted_listing(items, rejected)

    def entries(self, sources: Sequence[str], findings: Findings) -> Mapping[str, Entry]:
        entries: dict[str, Entry] = {}
        for prefix, root in self.folders.items():
            names = [source.removeprefix(prefix) for source in sources if source.startswith(prefix)]
            found = read_folder_entries(root, FolderSource(root).read, names, self.reading, findings)
            entries |= {prefix + name: replace(entry, file_name=prefix + name) for name, entry in found.items()}
        return entries

    def read(self, source: str) -> bytes:
        prefix = "" if "" in self.folders else source.partition("/")[0] + "/"
        return FolderSource(self.folders[prefix]).read(source.removeprefix(prefix))


@dataclass(frozen=True)
class FilesSource:
    """Images that are named one by one. Text files beside them have their captions; listings are not read."""

    paths: Mapping[str, str]
    """Name -> absolute path."""
    name: str
    reading: CaptionReading

    def listing(self, findings: Findings) -> Listing:
        items, rejected = [], []
        for name, path in self.paths.items():
            try:
                status = os.stat(path)
            except OSError as error:
                rejected.append(Rejected(name, "unreadable", str(error.strerror)))
                continue
            if not stat.S_ISREG(status.st_mode):
                what = "a folder; give it as the source" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
                rejected.append(Rejected(name, "not_a_file", what))
            elif not is_unicode(name):
                rejected.append(Rejected(name, "unreadable", "its path is not UTF-8; rename it"))
            else:
                beside = [stamp_of(os.stat(path)) for path in self._beside(name).values()]
                items.append(Item(name, (*stamp_of(status), *(number for stamp in beside for number in stamp))))
        return sorted_listing(items, rejected)

    def entries(self, sources: Sequence[str], findings: Findings) -> Mapping[str, Entry]:
        beside = {text: path for name in sources for text, path in self._beside(name).items()}
        paths = {**self.paths, **beside}
        texts, used = read_sidecars(
            lambda name: FolderSource("/").read(paths[name]),
            [*sources, *(name for name in beside if name not in self.paths)],
            self.reading,
            findings,
        )
        return joined_entries([name for name in sources if name not in used], {}, texts)

    def read(self, source: str) -> bytes:
        return FolderSource("/").read(self.paths[source])

    def refuse_links_out(self) -> None:
        """Raise ValueError where a text file links out of its folder."""
        texts = [path for name in self.paths for path in self._beside(name).values() if os.path.islink(path)]
        found = [path for path in texts if leads_out(path, os.path.dirname(path))]
        if found:
            raise links_refused(os.path.dirname(found[0]), found, "follow_links")

    def _beside(self, name: str) -> dict[str, str]:
        stem, suffix = posixpath.splitext(name)
        path = os.path.splitext(self.paths[name])[0]
        endings = [end + text for end in ("", suffix) for text in BESIDE if text != suffix]
        texts = {stem + end: path + end for end in endings}
        return {text: path for text, path in texts.items() if os.path.isfile(path)}


def sorted_listing(items: Sequence[Item], rejected: Sequence[Rejected]) -> Listing:
    """Sort both by the bytes of their names."""
    return Listing(
        sorted(items, key=lambda item: os.fsencode(item.source)),
        sorted(rejected, key=lambda left: os.fsencode(left.source)),
    )


def named_files(given: Sequence[str]) -> dict[str, str]:
    """Map names to absolute paths of images given directly or in lists. A list (.txt or .lst) has one path per line,
    absolute or relative to the list's folder; blank lines and those with # are skipped. An image that is named twice
    counts once, under its first name."""
    named: dict[str, str] = {}
    seen = set()
    for path in given:
        folder = os.path.dirname(path)
        for line in _listed_paths(path) if is_list(path) else [os.path.basename(path)]:
            real = os.path.abspath(os.path.join(folder, line))
            name = posixpath.normpath(line if is_list(path) else path)
            if real not in seen:
                seen.add(real)
                named[real if name in named else name] = real  # two lists may both hold a 1.jpg of their own
    return named


def is_list(path: str) -> bool:
    """Recognize a list of paths by its name."""
    return path.lower().endswith((".txt", ".lst"))


def _listed_paths(path: str) -> list[str]:
    text, _ = decode_text(FolderSource("/").read(os.path.abspath(path)))
    lines = [line.strip() for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith("#") and "\0" not in line]
