"""Fill a run folder from a mirror that is ahead of it.

The side whose stages saved more steps wins. A folder that is ahead of the mirror stays as it is and is uploaded; one
that is behind gets the newest whole checkpoint and every file outside checkpoints. All of it is checked before any file
gets its name, and the folder's mark says until the end that it is not whole, so a kill costs the download alone.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune.config.train import TrainConfig
from finetune.data.remote.turns import alone
from finetune.files import file_sha256, sync, sync_folder, writing
from finetune.plurals import first_few, plural
from finetune.run_folder.mirror.claim import Claim, LocalMark, read_claim, read_mark, write_claim, write_mark
from finetune.run_folder.mirror.contents import (
    CLAIM,
    FILES,
    Facts,
    Step,
    holds_run,
    is_inside,
    local_contents,
    newest_by_folder,
    num_steps,
    read_record,
    whole_steps,
)
from finetune.run_folder.mirror.manifest import manifest_damage
from finetune.run_folder.mirror.storage import MirrorStorage
from finetune.run_folder.options import check_output

NUM_THREADS = 8


def fetch_newest(config: TrainConfig) -> None:
    """Bring the run folder to the state of its mirror. Every process of a job calls it: one works,
    and the others wait. Raises ValueError where folder and mirror hold different runs."""
    if config.output.mirror is None:
        return
    folder, storage = config.output.folder, MirrorStorage(config.output.mirror.rstrip("/"))
    check_output(folder)
    with alone(folder / ".mirror.lock"):
        sizes = storage.sizes()
        claim = read_claim(storage) if CLAIM in sizes else None
        mark = read_mark(folder)
        refuse_other_run(folder, storage, sizes, claim, mark)
        run = claim.run if claim else mark.run if mark else secrets.token_hex(8)
        if claim is None:
            write_claim(storage, Claim(run).renewed())
        is_whole = mark is None or mark.is_whole
        here, there = num_steps(local_contents(folder)[1]), num_steps(whole_steps(sizes))
        if is_whole and (here >= there or config.resume == "never"):
            if config.resume == "never" and there:
                raise ValueError(
                    f"resume: got never, but {storage.url} holds a run at step {there:,}. Choose another "
                    "output.mirror, or omit --resume to continue it."
                )
            if here > there:
                say(f"output.mirror: {folder} is at step {here:,}, {storage.url} at {there:,}; it is uploaded.")
            write_mark(folder, LocalMark(run, storage.url, is_whole=True))
            return
        state = f"{folder} is at step {here:,}" if here else f"{folder} holds no checkpoint"
        say(f"output.mirror: {state}, {storage.url} at {there:,}; fetching it.")
        write_mark(folder, LocalMark(run, storage.url, is_whole=False))
        fetch(folder, storage, sizes)
        write_mark(folder, LocalMark(run, storage.url, is_whole=True))


def refuse_other_run(
    folder: Path, storage: MirrorStorage, sizes: dict[str, int], claim: Claim | None, mark: LocalMark | None
) -> None:
    """Raise ValueError where the folder and the mirror do not belong together."""
    if claim is None and sizes:
        raise ValueError(
            f"output.mirror: {storage.url} holds {plural(len(sizes), 'file')} that no run put there (first: "
            f"{min(sizes)}). Use a prefix of its own for each run."
        )
    if claim is None and mark is not None and not mark.is_whole:
        raise ValueError(
            f"output.mirror: {storage.url} is empty, but {folder} was not filled from it to the end. Restore the "
            "mirror, or delete the folder to start again."
        )
    if claim is not None and (mark.run != claim.run if mark else holds_run(folder)):
        raise ValueError(
            f"output.mirror: {storage.url} holds another run than {folder}. Choose another output.mirror for the run "
            "in the folder, or another output.folder to continue the run in the mirror."
        )


def fetch(folder: Path, storage: MirrorStorage, sizes: dict[str, int]) -> None:
    """Fetch each stage's newest whole checkpoint, and all other files."""
    staging = folder / f".tmp-fetched-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        record = read_record(storage.reading.read_whole(FILES), storage.url) if FILES in sizes else {}
        record = {name: facts for name, facts in record.items() if not is_here(folder / name, facts)}
        refuse_full_disk(folder, sum(sizes.get(name, 0) for name in record))
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            reasons = pool.map(lambda name: fetch_file(storage, name, record[name], sizes, staging), record)
            damage = [reason for reason in reasons if reason]
        if damage:
            say(
                f"warning: output.mirror: {plural(len(damage), 'file')} could not be taken over: {first_few(damage)}. "
                "The run does without."
            )
        steps = [step for name in stages(sizes) for step in fetch_step(folder, storage, sizes, name, staging)]
        put_in_place(folder, staging, steps)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def is_here(path: Path, facts: Facts) -> bool:
    """Tell if a folder has a file already."""
    return path.is_file() and path.stat().st_size == facts.size and file_sha256(path) == facts.sha256


def stages(sizes: dict[str, int]) -> list[str]:
    """List the folders of checkpoints in a mirror."""
    return sorted(newest_by_folder(whole_steps(sizes)))


def fetch_file(storage: MirrorStorage, name: str, facts: Facts, sizes: dict[str, int], staging: Path) -> str | None:
    """Fetch a recorded file; return what is wrong with it."""
    if name not in sizes:
        return None if None in facts.before else f"{name} is missing there"
    place = download(storage, name, staging)
    if facts.accepts(file_sha256(place)):
        return None
    place.unlink()
    return f"{name} is damaged there: its checksum differs from the recorded one"


def fetch_step(
    folder: Path, storage: MirrorStorage, sizes: dict[str, int], stage: str, staging: Path
) -> Iterator[Step]:
    """Fetch and yield the newest intact checkpoint of a stage. It is newer than the folder's. Raises ValueError
    where none is intact here or there: starting again would throw the run away."""
    here = newest_by_folder(local_contents(folder)[1]).get(stage, -1)
    there = [step for step in whole_steps(sizes) if step.folder == stage]
    reasons: list[str] = []
    for step in [step for step in there if step.number > here]:
        names = [name for name in sizes if name.startswith(f"{step.name}/") and is_inside(name)]
        refuse_full_disk(folder, sum(sizes[name] for name in names))
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(lambda name: download(storage, name, staging), names))
        reason = manifest_damage(staging / step.name)
        if reason is None:
            yield step
            return
        shutil.rmtree(staging / step.name)
        reasons.append(f"{storage.url}/{step.name}/{reason}")
        say(f"warning: output.mirror: {reasons[-1]}; falling back to the checkpoint before it.")
    if reasons and here < 0:
        raise ValueError(
            f"output.mirror: no intact checkpoint in {storage.url}, which has {len(there):,}. Restore one of these "
            "files, or choose another output.mirror and output.folder to start again."
            + "".join(f"\n{reason}." for reason in reasons)
        )


def download(storage: MirrorStorage, name: str, staging: Path) -> Path:
    """Copy a file below the folder of what was fetched."""
    place = staging / name
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    storage.reading.copy(name, place)
    return place


def refuse_full_disk(folder: Path, size: int) -> None:
    """Raise OSError where the disk has too little room."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"output.folder: {folder} needs {size:,} bytes to continue the run, and {free:,} are free there. Make "
            "room, then run the same command again."
        )


def put_in_place(folder: Path, staging: Path, steps: list[Step]) -> None:
    """Give everything that was fetched its name, checkpoints last."""
    if not staging.is_dir():
        return
    sync_folder(staging)
    for step in steps:
        (folder / step.folder).mkdir(parents=True, exist_ok=True)
    inside = {step.name for step in steps}
    for path in sorted(path for path in staging.rglob("*") if path.is_file()):
        name = path.relative_to(staging).as_posix()
        if not any(name.startswith(f"{each}/") for each in inside):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(folder / name)
    for step in steps:
        (staging / step.name).replace(folder / step.name)
        sync(folder / step.folder)
    sync(folder)


def say(text: str) -> None:
    """Print at once: a large checkpoint takes a while."""
    print(text, flush=True)
