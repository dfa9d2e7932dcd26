"""One upload of a run folder: what changed since the one before.

Files outside checkpoints go first, so a whole checkpoint there never lacks a row of metrics that belongs to it. Their
record is written before them, with the hashes that each place may have until the upload is done, and after them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune.data.remote.storage import StorageError
from finetune.files import file_sha256
from finetune.run_folder.mirror.claim import Claim, refuse_other_writer
from finetune.run_folder.mirror.contents import (
    FILES,
    MANIFEST,
    Facts,
    Step,
    is_held,
    local_contents,
    newest_by_folder,
    newest_first,
    read_record,
    record_text,
    step_of,
    whole_steps,
)
from finetune.run_folder.mirror.manifest import listed_files
from finetune.run_folder.mirror.storage import OPTION, MirrorStorage

Stamp = tuple[int, int]
"""Size and time of a file's last change."""


@dataclass(eq=False)
class Upload:
    """A run folder and its mirror. One thread at a time uses it."""

    folder: Path
    storage: MirrorStorage
    claim: Claim
    keep: int
    """Newest checkpoints that stay in the mirror."""
    arrived: dict[Step, bytes] = field(default_factory=dict[Step, bytes])
    """The manifests of whole checkpoints there."""
    _sent: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Files of a checkpoint on its way, by the manifest they belong to."""
    _hashed: dict[str, tuple[Stamp, Facts]] = field(default_factory=dict[str, tuple[Stamp, Facts]])

    def upload(self) -> None:
        """Make the mirror equal to the folder. Raises OSError where that fails; another call continues."""
        refuse_other_writer(self.storage, self.claim)
        sizes = self.storage.sizes()
        self._upload_files(sizes)
        _, steps = local_contents(self.folder)
        for step in steps:
            self._upload_step(step, sizes)
        self._remove_rotated(steps)

    def _upload_files(self, sizes: Mapping[str, int]) -> None:
        """Upload files outside checkpoints that changed, and remove those that are gone."""
        record = read_record(self.storage.reading.read_whole(FILES), self.storage.url) if FILES in sizes else {}
        held, now = self._look()
        changed = [name for name, facts in now.items() if record.get(name) != facts or name not in sizes]
        gone = [name for name in record if name not in now]
        if not changed and not gone:
            return
        between = {**record, **now}
        for name in changed:
            before = (record[name].sha256, *record[name].before) if name in record else (None,)
            between[name] = replace(now[name], before=before)
        for name in gone:
            between[name] = replace(record[name], before=(*record[name].before, None))
        self.storage.write(FILES, record_text(between))
        for name in reversed(changed):  # rows refer to images and weights, so they go last
            if name in held:
                self.storage.write(name, held[name])
            else:
                self._put(name)
        for name in gone:
            self.storage.remove(name)
        self.storage.write(FILES, record_text(now))

    def _look(self) -> tuple[dict[str, bytes], dict[str, Facts]]:
        """Hash the files outside checkpoints. Also returns the contents of those that may change meanwhile."""
        held: dict[str, bytes] = {}
        now: dict[str, Facts] = {}
        for name in local_contents(self.folder)[0]:
            path = self.folder / name
            try:
                if is_held(name):
                    held[name] = path.read_bytes()
                    now[name] = Facts(len(held[name]), hashlib.sha256(held[name]).hexdigest())
                else:
                    now[name] = self._facts(name)
            except FileNotFoundError:
                continue  # removed or renamed since it was listed
        return held, now

    def _facts(self, name: str) -> Facts:
        """Hash a file, or remember its hash."""
        stamp = stamp_of(self.folder / name)
        if name not in self._hashed or self._hashed[name][0] != stamp:
            self._hashed[name] = stamp, Facts(stamp[0], file_sha256(self.folder / name))
        return self._hashed[name][1]

    def _put(self, name: str) -> None:
        """Upload a file as it was hashed."""
        path = self.folder / name
        self.storage.put(name, path)
        if not path.exists() or stamp_of(path) != self._hashed[name][0]:
            raise StorageError(f"{OPTION}: {path} changed while it was uploaded")

    def _upload_step(self, step: Step, sizes: Mapping[str, int]) -> None:
        """Upload a checkpoint that is not there, its manifest last. One that is removed meanwhile is passed over."""
        folder = self.folder / step.name
        try:
            manifest = (folder / MANIFEST).read_bytes()
            if self._is_there(step, manifest, sizes):
                return
            if step.manifest in sizes:
                self.storage.remove(step.manifest)  # the files it lists are about to change
            files = {path.relative_to(self.folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            refuse_other_sizes(folder, manifest)
            for name, path in sorted(files.items()):
                if name != step.manifest and self._sent.get(name) != manifest:
                    self.storage.put(name, path)
                    self._sent[name] = manifest
            self._refuse_missing(step, {name: path.stat().st_size for name, path in files.items()})
            self.storage.write(step.manifest, manifest)
        except FileNotFoundError:
            if folder.is_dir():
                raise
            return
        self.arrived[step] = manifest
        self._sent = {name: each for name, each in self._sent.items() if each != manifest}

    def _is_there(self, step: Step, manifest: bytes, sizes: Mapping[str, int]) -> bool:
        """Tell if the mirror has this checkpoint."""
        if step.manifest in sizes and step not in self.arrived:
            self.arrived[step] = self.storage.reading.read_whole(step.manifest)
        return step.manifest in sizes and self.arrived[step] == manifest

    def _refuse_missing(self, step: Step, expected: Mapping[str, int]) -> None:
        """Raise StorageError where a file of a checkpoint did not arrive whole."""
        found = self.storage.sizes()
        for name, size in expected.items():
            if name != step.manifest and found.get(name) != size:
                self._sent.pop(name, None)
                raise StorageError(f"{OPTION}: {self.storage.url}/{name} did not arrive whole")

    def _remove_rotated(self, steps: list[Step]) -> None:
        """Remove checkpoints of lost steps, and older than those that are kept. A manifest goes
        first, so the rest is not taken for a checkpoint."""
        names, newest = sorted(self.storage.sizes()), newest_by_folder(steps)
        kept = set(steps)
        for stage, number in newest.items():
            whole = [step for step in whole_steps(names) if step.folder == stage and step.number <= number]
            kept |= set(whole[: self.keep])
        there = {step for name in names if (step := step_of(name)) is not None and step.folder in newest}
        for step in newest_first(there - kept):
            self.arrived.pop(step, None)
            self.storage.remove(step.manifest)
            for name in [name for name in names if step_of(name) == step and name != step.manifest]:
                self.storage.remove(name)


def stamp_of(path: Path) -> Stamp:
    """Return what changes with a file's content."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def refuse_other_sizes(folder: Path, manifest: bytes) -> None:
    """Raise OSError where a file differs from its manifest. A network disk may lag."""
    for name, facts in listed_files(manifest).items():
        if (folder / name).stat().st_size != facts["size"]:
            raise StorageError(f"{OPTION}: {folder / name} differs from its manifest, so it is not uploaded")
