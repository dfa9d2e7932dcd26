"""The mark of an uploaded dataset. It is written before the first file and again after the last."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from finetune.data.remote.storage import RemoteFile, Storage
from finetune.json_text import parse_json
from finetune.plurals import first_few

MARK = ".prep/upload.json"
"""Hidden, so no reader takes it for a part of the dataset."""


@dataclass(frozen=True)
class Sent:
    """A file as it was uploaded."""

    size: int
    sha256: str
    stamp: str
    """What the storage called its content."""


@dataclass(frozen=True)
class UploadMark:
    """The files of an upload."""

    is_whole: bool
    version: str
    """Hash of what the dataset was made from."""
    files: Mapping[str, Sent] = field(default_factory=dict)
    """Those that are there, by their names below the URL."""
    planned: Sequence[str] = ()
    """Names of those that are being written or removed."""

    def to_json(self) -> bytes:
        """Write the mark as JSON."""
        return json.dumps(asdict(self)).encode("ascii")


def read_mark(storage: Storage, files: Sequence[RemoteFile]) -> UploadMark | None:
    """Read the mark among a URL's files. None where there is none."""
    found = next((file for file in files if file.name == MARK), None)
    if found is None:
        return None
    try:
        content = parse_json(storage.read(MARK, 0, found.size))
        sent = {name: Sent(**facts) for name, facts in content.pop("files").items()}
        return UploadMark(**content, files=sent)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{storage.option}: {storage.url}/{MARK} was not written by this version ({error}). Remove the prepared "
            "dataset there and prepare it again, or give another folder."
        ) from error


def refuse_unfinished(storage: Storage, files: Sequence[RemoteFile]) -> None:
    """Refuse a prepared dataset that was not uploaded whole."""
    mark = read_mark(storage, files)
    if mark is None:
        return
    if not mark.is_whole:
        raise ValueError(
            f"{storage.option}: the upload of the prepared dataset {storage.url} has not ended, {len(mark.planned):,} "
            "files are missing or old. Wait for it, or run the preparation that writes it again."
        )
    sizes = {file.name: file.size for file in files}
    wrong = [name for name, sent in mark.files.items() if sizes.get(name) != sent.size]
    if wrong:
        raise ValueError(
            f"{storage.option}: files of the prepared dataset {storage.url} are missing or have another size: "
            f"{first_few(wrong)}. Run the preparation that writes it again."
        )
