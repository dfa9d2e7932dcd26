"""Images below URLs, fetched to this machine before they are prepared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets_prep.captions.own import is_image_name
from datasets_prep.measure.gather import Progress
from datasets_prep.records import Listing, PrepSource, Rejected
from datasets_prep.sources.fetch import fetch
from datasets_prep.sources.folder import sorted_listing
from finetune.data.captions.names import split_name
from finetune.data.listing import Entry, Findings
from finetune.data.remote.storage import RemoteFile, Storage, contain_each_other, is_hidden, is_url
from finetune.data.remote.upload_mark import refuse_unfinished
from finetune.data.visible_files import TABLE_FILES
from finetune.plurals import plural


@dataclass(frozen=True)
class RemoteFolder:
    """The files below a URL, and the folder they are fetched to."""

    storage: Storage
    files: tuple[RemoteFile, ...]
    hidden: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class RemoteSource:
    """Folders below URLs, listed and not yet fetched."""

    folders: tuple[RemoteFolder, ...]
    open: Callable[[tuple[str, ...]], PrepSource]
    """Opens the fetched folders."""

    def fetched(self, progress: Progress) -> "FetchedSource":
        """Fetch what is new or changed, and open the fetched folders."""
        lost: list[Rejected] = []
        hidden: list[str] = []
        for each in self.folders:
            prefix = f"{each.folder.name}/" if len(self.folders) > 1 else ""
            found = fetch(each.storage, each.files, each.folder, progress)
            lost += [replace(left, source=prefix + left.source) for left in found]
            hidden += [prefix + name for name in each.hidden]
        return FetchedSource(self.open(tuple(str(each.folder) for each in self.folders)), tuple(lost), tuple(hidden))


@dataclass(frozen=True)
class FetchedSource:
    """Fetched images, and the files that could not be fetched."""

    local: PrepSource
    lost: tuple[Rejected, ...]
    hidden: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.local.name

    def listing(self, findings: Findings) -> Listing:
        for name in self.hidden:
            findings.warn("hidden files and folders, which are not looked at", name)
        listing = self.local.listing(findings)
        return sorted_listing(listing.items, [*listing.rejected, *self.lost])

    def entries(self, sources: Sequence[str], findings: Findings) -> Mapping[str, Entry]:
        return self.local.entries(sources, findings)

    def read(self, source: str) -> bytes:
        return self.local.read(source)


def remote_source(
    given: tuple[str, ...],
    output: str | None,
    folder_of: Callable[[str], Path],
    opened: Callable[[tuple[str, ...]], PrepSource],
) -> RemoteSource:
    """List the files below URLs; nothing is fetched yet.

    `output` is the URL of the output, if it is one. Raises ValueError and OSError where a URL cannot be listed, has
    nothing to prepare, or contains the output or is in it.
    """
    urls = tuple(dict.fromkeys(url.rstrip("/") for url in given))
    if paths := [url for url in urls if not is_url(url)]:
        raise ValueError(
            f"source: got URLs and also paths of this machine ({', '.join(paths)}), expected one kind. Prepare each by "
            "itself."
        )
    for url in urls:
        if output is not None and contain_each_other(url, output):
            raise ValueError(
                f"output: {output} and the source {url} contain each other, expected two separate folders. Give an "
                "output elsewhere, so the source stays as it is."
            )
    for number, url in enumerate(urls):
        for other in urls[:number]:
            if contain_each_other(url, other) or folder_of(url).name == folder_of(other).name:
                raise ValueError(
                    f"source: {other} and {url} contain each other or have the same last name, by which their images "
                    "are told apart. Give the folder of both."
                )
    return RemoteSource(tuple(_listed(Storage(url, "source"), folder_of(url)) for url in urls), opened)


def _listed(storage: Storage, folder: Path) -> RemoteFolder:
    everything = storage.all_files()
    refuse_unfinished(storage, everything)
    files = tuple(file for file in everything if not is_hidden(file.name))
    if not any(is_image_name(file.name) or split_name(file.name)[1] in TABLE_FILES for file in files):
        raise ValueError(
            f"source: there are no images, .parquet or .tar files below {storage.url}, of {plural(len(files), 'file')} "
            "there. Check the spelling."
        )
    parent, _, name = storage.url.rpartition("/")
    if [file.name for file in files] == [name]:  # the URL is that of a file
        if is_image_name(name):
            raise ValueError(f"source: {storage.url} is a single image. Give the URL of its folder.")
        storage = replace(storage, url=parent)
    return RemoteFolder(storage, files, _hidden(everything), folder)


def _hidden(files: Sequence[RemoteFile]) -> tuple[str, ...]:
    """Name hidden files, and hidden folders once."""
    found: dict[str, None] = {}
    for parts in (file.name.split("/") for file in files):
        first = next((place for place, part in enumerate(parts, 1) if part.startswith(".")), None)
        if first is not None:
            found["/".join(parts[:first])] = None
    return tuple(found)
