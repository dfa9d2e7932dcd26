"""Upload of a prepared folder. Its mark says that it is unfinished from before the first file until after the last."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from datasets_prep.measure.gather import Progress
from datasets_prep.output.folder import LISTINGS, State
from finetune.data.remote.storage import RemoteFile, Storage
from finetune.data.remote.upload_mark import MARK, Sent, UploadMark, read_mark
from finetune.files import file_sha256
from finetune.plurals import first_few, plural

PROBE = ".prep/probe"
"""Written and removed to find out whether that is allowed."""
DECISIONS = "decisions.jsonl"
BESIDE = (*LISTINGS, "README.md", "report.html", DECISIONS)
NUM_THREADS = 8
BLOCK_FILES, BLOCK_BYTES = 256, 2**30
"""What is sent between two marks, so the most that is sent again after a kill."""


@dataclass(frozen=True)
class Upload:
    """The remote place of a prepared dataset, before its preparation."""

    storage: Storage
    there: Mapping[str, RemoteFile]
    mark: UploadMark

    def bring_decisions(self, output: Path) -> None:
        """Fetch the uploaded decisions where this machine has none."""
        if DECISIONS in self.mark.files and DECISIONS in self.there and not (output / DECISIONS).exists():
            (output / DECISIONS).write_bytes(self.storage.read(DECISIONS, 0, self.there[DECISIONS].size))

    def send(self, output: Path, state: State, progress: Progress) -> int:
        """Make the remote dataset equal to the prepared folder. Returns how many files were written and removed.

        Files that are there already are not sent again. Other files below the URL stay.
        """
        names = prepared_names(output, state)
        version = hashlib.sha256(json.dumps([state.inputs, dict(state.listings)]).encode()).hexdigest()
        known = {name: sent for name, sent in self.mark.files.items() if self._is_there(name, sent)}
        if self.mark.is_whole and self.mark.version == version and set(known) == set(names) == set(self.mark.files):
            return 0
        own = {*self.mark.files, *self.mark.planned}
        if foreign := [name for name in names if name in self.there and name not in own]:
            raise ValueError(
                f"output: {self.storage.url} has files that this command did not write and would replace: "
                f"{first_few(foreign)}. Move them away, or give another output."
            )
        digests = {name: file_sha256(output / name) for name in names}
        done = {name: sent for name, sent in known.items() if sent.sha256 == digests.get(name)}
        missing = [name for name in names if name not in done]
        stale = sorted(name for name in own if name in self.there and name not in digests)
        size = sum((output / name).stat().st_size for name in missing)
        print(f"output: uploading {plural(len(missing), 'file')} to {self.storage.url} ({size / 1e6:,.1f} MB).",
              file=sys.stderr, flush=True)  # fmt: skip
        self._send(output, version, done, missing, stale, digests, progress)
        for name in stale:
            self.storage.remove(name)
        self._finish(version, done)
        return len(missing) + len(stale)

    def _send(
        self,
        output: Path,
        version: str,
        done: dict[str, Sent],
        missing: Sequence[str],
        stale: Sequence[str],
        digests: Mapping[str, str],
        progress: Progress,
    ) -> None:
        """Send files in blocks, in order, and add them to `done`. Each block is marked."""

        def mark() -> None:
            planned = [*missing, *stale]
            self.storage.write(MARK, UploadMark(False, version, done, planned).to_json())

        mark()
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for block in blocks(missing, [(output / name).stat().st_size for name in missing]):
                sent = list(pool.map(lambda name: self._send_one(output / name, name, digests[name]), block))
                done.update(zip(block, sent, strict=True))
                mark()
                progress("uploading", len(done), len(digests))

    def _send_one(self, path: Path, name: str, sha256: str) -> Sent:
        self.storage.write(name, path)
        found = self.storage.file(name)
        return Sent(found.size, sha256, found.stamp)

    def _finish(self, version: str, done: Mapping[str, Sent]) -> None:
        """Check that all files are there as sent, and mark that."""
        now = {file.name: file for file in self.storage.all_files()}
        wrong = [name for name, sent in done.items() if name not in now or now[name].stamp != sent.stamp]
        if wrong:
            raise ValueError(
                f"output: files below {self.storage.url} were changed during the upload: {first_few(wrong)}. Make sure "
                "that nothing else writes there, and run the same command again."
            )
        self.storage.write(MARK, UploadMark(True, version, done).to_json())

    def _is_there(self, name: str, sent: Sent) -> bool:
        return name in self.there and self.there[name].stamp == sent.stamp != ""


def open_upload(url: str) -> Upload:
    """List the files below the output's URL, and try to write there.

    Raises ValueError where there is something that this command did not write or that was changed since, and OSError
    where the storage does not allow to list, write and remove.
    """
    storage = Storage(url, "output")
    listed = storage.all_files()
    mark = read_mark(storage, listed)
    there = {file.name: file for file in listed if file.name not in (MARK, PROBE)}
    if mark is None and there:
        raise ValueError(
            f"output: below {url} is something that this command did not write: {first_few(list(there))}. Give the "
            "URL of a new folder."
        )
    mark = mark or UploadMark(False, "")
    sent = {name: each for name, each in mark.files.items() if name in there and name not in mark.planned}
    if changed := [name for name, each in sent.items() if there[name].stamp != each.stamp]:
        raise ValueError(
            f"output: files of the prepared dataset {url} were changed after their upload and would be lost: "
            f"{first_few(changed)}. Move them away, or give another output."
        )
    storage.write(PROBE, b"")
    storage.remove(PROBE)
    return Upload(storage, there, mark)


def prepared_names(output: Path, state: State) -> list[str]:
    """List the files of a prepared folder, the listings last."""
    names = [f"{folder}/{name}" for folder in state.files for name in sorted(os.listdir(output / folder))]
    visible = [name for name in names if not name.rpartition("/")[2].startswith(".")]
    return [*visible, *(name for name in BESIDE if (output / name).is_file())]


def blocks(names: Sequence[str], sizes: Sequence[int]) -> list[list[str]]:
    """Group files, in order, by number and bytes."""
    found: list[list[str]] = []
    total = 0
    for name, size in zip(names, sizes, strict=True):
        if not found or len(found[-1]) >= BLOCK_FILES or total + size > BLOCK_BYTES:
            found.append([])
            total = 0
        found[-1].append(name)
        total += size
    return found
