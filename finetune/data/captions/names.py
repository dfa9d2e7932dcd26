"""Names of images and of the files that hold their captions."""

import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

TEXT_SUFFIXES = (".txt", ".caption", ".captions", ".tags", ".text", ".prompt")
JSON_SUFFIX = ".json"
CLASS_SUFFIX = ".cls"
"""A class's name in WebDataset archives."""
LISTINGS = ("metadata.jsonl", "metadata.csv")
FURTHER_PART = re.compile(r"[-_. ]+[^-_. \d][^-_. ]*$")
"""The last part of a name, unless it begins with a digit, as in a series."""


def folded(name: str) -> str:
    """Return a name for comparison: composed Unicode in small letters."""
    return unicodedata.normalize("NFC", name).casefold()


def split_name(name: str) -> tuple[str, str]:
    """Return a name without its ending, and the ending in small letters."""
    stem, suffix = posixpath.splitext(name)
    return stem, suffix.lower()


class ImageNames:
    """Images by the names that files beside them, and lists, use."""

    def __init__(self, images: Iterable[str], is_image: Callable[[str], bool], *, is_keyed: bool) -> None:
        self._is_image = is_image
        self._names: set[str] = set()
        self._stems: dict[str, list[str]] = {}
        self._keys: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] | None = None
        self._bases: dict[str, list[str]] | None = None
        self._folders: set[str] | None = None
        for name in images:
            self._names.add(name)
            self._stems.setdefault(split_name(name)[0], []).append(name)
            if is_keyed:
                self._keys.setdefault(_key(name), []).append(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def beside(self, text: str) -> list[str]:
        """Return a text file's images: x.png for x.png.txt and x.txt. Names that differ in capitals or
        in how Unicode composes them fit where no other does."""
        stem = split_name(text)[0]
        found = self._stems.get(stem) or self._exactly(stem) or self._keys.get(_key(text))
        found = found or self._by_fold().get(folded(stem), [])
        if not found and self._is_image(stem):  # x.jpg.txt beside x.png: the image was saved in another format
            found = self._stems.get(split_name(stem)[0], [])
        images = [name for name in found if self._is_image(name)]
        return images or found

    def listed(self, name: str, folder: str) -> list[str]:
        """Return the images that a list's name may mean. They are several where the name is ambiguous."""
        path = posixpath.normpath(name.replace("\\", "/"))
        inside = posixpath.normpath(posixpath.join(folder, path))
        found = self._exactly(inside) or self._stems.get(inside) or self._by_fold().get(folded(inside))
        if found:
            return found
        start = f"{folder}/" if folder else ""
        found = [name for name in self.called(posixpath.basename(path)) if name.startswith(start)]
        whole = "/" + folded(path)
        ends = [name for name in found if whole.endswith(("/" + folded(name), "/" + folded(split_name(name)[0])))]
        return ends or found

    def nearly(self, text: str) -> list[str]:
        """Return possible images of a text file with another name. Its name has one more part, as in
        x_caption.txt and x.en.txt, or the file is in a folder of texts, as others of its name are."""
        folder, base = posixpath.split(split_name(text)[0])
        shorter = FURTHER_PART.sub("", base)
        found = self._stems.get(posixpath.join(folder, shorter), []) if shorter != base else []
        return found or ([] if self.has_folder(folder) else self.called(base))

    def _exactly(self, name: str) -> list[str]:
        return [name] if name in self._names else []

    def called(self, base: str) -> list[str]:
        """Return the images of a file name, with or without its ending."""
        return self._by_base().get(folded(base), [])

    def has_folder(self, folder: str) -> bool:
        """Tell if images are directly in a folder."""
        if self._folders is None:
            self._folders = {posixpath.dirname(name) for name in self._names if self._is_image(name)}
        return folder in self._folders

    def _by_fold(self) -> Mapping[str, list[str]]:
        if self._folded is None:
            self._folded = {}
            for name in self._names:
                for key in dict.fromkeys((folded(name), folded(split_name(name)[0]))):
                    self._folded.setdefault(key, []).append(name)
        return self._folded

    def _by_base(self) -> Mapping[str, list[str]]:
        if self._bases is None:
            self._bases = {}
            for name in self._names:
                base = folded(posixpath.basename(name))
                for key in dict.fromkeys((base, split_name(base)[0])):
                    self._bases.setdefault(key, []).append(name)
        return self._bases


def _key(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])
