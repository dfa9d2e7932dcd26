"""From a source folder to a prepared one: scan, decode, exact duplicates, captions, write; all of it or nothing."""

import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import PIL
from rich.console import Console
from rich.progress import track

from datasets_prep.captions import made_caption, read_entries, with_trigger
from datasets_prep.config import PrepConfig
from datasets_prep.scan import Item, Picture, Rejected, take, walk
from finetune.data.entries import Entry, Findings, first_few

VERSION = 1
"""Raised when the same input gives another result."""
MARKER = ".datasets_prep.json"
LISTINGS = ("metadata.jsonl", "rejected.jsonl")
NUM_THREADS = min(4, os.cpu_count() or 1)  # each may hold a picture of almost 1 GB
TAKEN_AT_ONCE = 1024


@dataclass(frozen=True)
class Outcome:
    """What a preparation came to."""

    num_pictures: int
    rejected: Mapping[str, int]
    """Files by reason."""
    notices: tuple[str, ...]
    is_new: bool
    """Whether anything was written; False where the result was there already."""


def prepare(config: PrepConfig) -> Outcome:
    """Writes the prepared folder, unless it is there and made from the same files with the same options."""
    source, output = _checked_folders(config)
    with _work_folder(output) as work:
        marker = _read_marker(output)
        findings = Findings()
        items, rejected = walk(str(source), (output, work.parent), findings)
        inputs = _digest(replace(config, source=source, output=Path()), items, rejected)
        if marker is not None and marker["inputs"] == inputs and _is_whole(output, marker):
            return Outcome(marker["num_pictures"], marker["rejected"], (), is_new=False)
        if marker is not None:
            _check_unedited(output, marker)
        entries = read_entries(str(source), [item.source for item in items], config.caption_column, findings)
        groups, more = _sort_out(source, work, entries, config.min_side)
        rejected = sorted(rejected + more, key=lambda result: os.fsencode(result.source))
        counts = dict(sorted(Counter(result.reason for result in rejected).items()))
        if not groups:
            raise ValueError(
                f"source: {config.source} holds no usable picture ({counted(counts) or 'no files'}). Expected pictures "
                "such as JPEG, PNG or WebP. Check the path and these files: "
                + first_few([f"{result.source} ({result.detail})" for result in rejected])
            )
        rows = [_row(group, entries, source.name, config.trigger, findings) for group in groups]
        _write_lines(work / "metadata.jsonl", rows, is_ascii=False)
        _write_lines(work / "rejected.jsonl", [asdict(result) for result in rejected], is_ascii=True)
        listings = {name: _sha256(work / name) for name in LISTINGS}
        marker = {"inputs": inputs, "num_pictures": len(rows), "rejected": counts, "listings": listings}
        (work / MARKER).write_text(json.dumps(marker), encoding="utf-8")
        if output.exists():
            output.rename(work.parent / "old")
        work.rename(output)
    return Outcome(len(rows), counts, findings.warnings, is_new=True)


def counted(rejected: Mapping[str, int]) -> str:
    """Returns the reasons with their counts in one line."""
    return ", ".join(f"{reason} {num:,}" for reason, num in rejected.items())


def _checked_folders(config: PrepConfig) -> tuple[Path, Path]:
    if not config.source.expanduser().is_dir():
        raise FileNotFoundError(
            f"source: there is no folder {config.source}. Expected a folder of pictures, the only source that this "
            "version reads. Check the spelling."
        )
    source, output = config.source.expanduser().resolve(), config.output.expanduser().resolve()
    if output.is_relative_to(source) or source.is_relative_to(output):
        raise ValueError(
            f"output: {config.output} and the source {config.source} lie in each other, expected two separate folders. "
            "Give an output elsewhere, so that the source stays as it is."
        )
    return source, output


@contextmanager
def _work_folder(output: Path) -> Iterator[Path]:
    """An empty folder beside the output, gone afterwards; what a killed run left there is put right first."""
    partial = output.with_name(f".{output.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)  # the lock ends with the process, however that ends
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"output: another preparation is writing {output}. Wait until it has ended.") from None
        _restore(partial, output)
        for left in partial.iterdir():
            shutil.rmtree(left)
        (partial / "new").mkdir()
        try:
            yield partial / "new"
        finally:
            _restore(partial, output)
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(lock)


def _restore(partial: Path, output: Path) -> None:
    """Puts an earlier result back that was moved away for a new one which never came."""
    if (partial / "old").exists() and not output.exists():
        (partial / "old").rename(output)


def _read_marker(output: Path) -> dict | None:
    """What an earlier run noted in its result, None where there is no result; ValueError where it is something else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    try:
        return json.loads((output / MARKER).read_bytes())
    except (OSError, ValueError):
        raise ValueError(
            f"output: {output} exists and was not written by this command. Give the name of a new folder."
        ) from None


def _digest(config: PrepConfig, items: Sequence[Item], rejected: Sequence[Rejected]) -> str:
    """Of all that the result depends on; sizes and times stand for contents."""
    digest = hashlib.sha256(ascii((VERSION, PIL.__version__, config)).encode())
    for entry in [*items, *sorted(rejected, key=lambda result: os.fsencode(result.source))]:
        digest.update(ascii(entry).encode())
    return digest.hexdigest()


def _is_whole(output: Path, marker: dict) -> bool:
    images = output / "images"
    return (
        all((output / name).is_file() for name in LISTINGS)
        and images.is_dir()
        and len(os.listdir(images)) == marker["num_pictures"]
    )


def _check_unedited(output: Path, marker: dict) -> None:
    """Refuses to replace a result that a user has put work into."""
    there = [name for name in LISTINGS if (output / name).exists()]
    own = [name for name in there if _sha256(output / name) != marker["listings"][name]]
    own += sorted(set(os.listdir(output)) - {MARKER, "images", *LISTINGS})
    if own:
        raise ValueError(
            f"output: {output} has to be made again, but this was edited or added since and would be lost: "
            f"{first_few(own)}. Move the folder away, or give another output."
        )


def _sort_out(
    source: Path, work: Path, entries: Mapping[str, Entry], min_side: int
) -> tuple[list[list[Picture]], list[Rejected]]:
    """Returns the pictures, those of the same bytes together with the one that is kept first, and what is rejected."""
    (work / "images").mkdir()
    console = Console(stderr=True)
    results = _take_all(str(source), list(entries), str(work), min_side)
    seen = list(track(results, "reading", len(entries), console=console, disable=not console.is_terminal))
    pictures = [result for result in seen if isinstance(result, Picture)]
    rejected = [result for result in seen if isinstance(result, Rejected)]
    groups: dict[str, list[Picture]] = {}
    pictures.sort(key=lambda picture: not entries[picture.source].captions)  # stable: among equals the path decides
    for picture in pictures:
        groups.setdefault(picture.sha256, []).append(picture)
    for keeper, *copies in groups.values():
        detail = f"same bytes as {keeper.source}"
        rejected += [Rejected(copy.source, "exact_duplicate", detail, keeper.source, 1.0) for copy in copies]
    return sorted(groups.values(), key=lambda group: os.fsencode(group[0].source)), rejected


def _take_all(root: str, names: Sequence[str], output: str, min_side: int) -> Iterator[Picture | Rejected]:
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for start in range(0, len(names), TAKEN_AT_ONCE):
            part = names[start : start + TAKEN_AT_ONCE]
            yield from pool.map(lambda name: take(root, name, output, min_side), part)


def _row(
    group: Sequence[Picture], entries: Mapping[str, Entry], root_name: str, trigger: str | None, findings: Findings
) -> dict[str, object]:
    """A line of metadata.jsonl; weight, repeats and split stand in it where the source's own listing set them."""
    keeper, entry = group[0], entries[group[0].source]
    if keeper.colour_warning is not None:
        findings.warn("colour profiles that cannot be used and are ignored", keeper.source)
    captions = [caption for picture in group for caption in entries[picture.source].captions]
    captions = captions or [made_caption(keeper.source, root_name, trigger, findings)]
    text, *others = dict.fromkeys(with_trigger(caption, trigger) for caption in captions)
    row: dict[str, object] = {"file_name": keeper.file_name, "text": text}
    row |= {"captions_alt": others} if others else {}
    row |= {"width": keeper.width, "height": keeper.height, "sha256": keeper.sha256, "source": keeper.source}
    row |= {"weight": entry.weight} if entry.weight != 1 else {}
    row |= {"repeats": entry.repeats} if entry.repeats != 1 else {}
    return row | ({"split": entry.split} if entry.split is not None else {})


def _write_lines(path: Path, rows: Sequence[Mapping[str, object]], *, is_ascii: bool) -> None:
    """One JSON object a line; ASCII can also write names that are not UTF-8."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=is_ascii) + "\n" for row in rows)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
