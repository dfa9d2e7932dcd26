"""The marks of a mirror and its run folder.

That of the mirror names the run, and the start of it that writes there.
"""

import json
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from finetune.files import write_atomically
from finetune.run_folder.mirror.contents import CLAIM
from finetune.run_folder.mirror.storage import MirrorStorage


class MirrorTakenError(ValueError):
    """Another start of the run writes to the mirror."""


@dataclass(frozen=True)
class Claim:
    """The contents of mirror.json in a mirror."""

    run: str
    """Chosen once, at the run's first start."""
    writer: str = ""
    """Chosen at every start."""
    since: str = ""

    def renewed(self) -> "Claim":
        """Return the claim of another start."""
        return replace(self, writer=secrets.token_hex(8), since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")


def read_claim(storage: MirrorStorage) -> Claim:
    """Read the claim in a mirror. Raises FileNotFoundError where there is none."""
    try:
        content = json.loads(storage.reading.read_whole(CLAIM))
        return Claim(content["run"], content["writer"], content["since"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"output.mirror: {storage.url}/{CLAIM} is not what a run writes. Give another output.mirror."
        ) from error


def write_claim(storage: MirrorStorage, claim: Claim) -> None:
    """Write that this start of the run writes there from now on."""
    storage.write(CLAIM, json.dumps(vars(claim), indent=1).encode())


def refuse_other_writer(storage: MirrorStorage, own: Claim) -> None:
    """Raise MirrorTakenError if a later start took the mirror. One that was emptied is claimed again."""
    try:
        found = read_claim(storage)
    except FileNotFoundError:
        write_claim(storage, own)
        return
    if found != own:
        raise MirrorTakenError(
            f"output.mirror: {storage.url} is written to by another start of the run since {found.since}, so this one "
            "uploads nothing more. End one of both; what this one saved is in its output.folder."
        )


@dataclass(frozen=True)
class LocalMark:
    """The contents of mirror.json in a run folder."""

    run: str
    mirror: str
    is_whole: bool
    """False while the folder is filled from the mirror."""


def read_mark(folder: Path) -> LocalMark | None:
    """Read a run folder's mark, None where it was never mirrored."""
    path = folder / CLAIM
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return LocalMark(content["run"], content["mirror"], content["is_whole"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"output.folder: {path} is damaged. Restore it, or choose another output.folder, which is filled from "
            "output.mirror."
        ) from error


def write_mark(folder: Path, mark: LocalMark) -> None:
    """Mark a run folder."""
    write_atomically(folder / CLAIM, json.dumps(vars(mark), indent=1))
