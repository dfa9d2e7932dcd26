"""From any source to a prepared data set: list, measure, gate, copies, captions, scores, split, write, report.

Each stage is a function of what the one before gave. What costs time is kept in OUTPUT/.prep by the content it belongs
to: measurements, pairs that were looked at twice, captions, learned scores. So a rerun, after a kill or with new
pictures, repeats only what is cheap, and always comes to the same bytes.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from datasets_prep.caption_stage import caption_all, check_captioner
from datasets_prep.config import PrepConfig
from datasets_prep.copies_stage import check_dedup, find_copies
from datasets_prep.decisions import Decided, read_decisions
from datasets_prep.engine import Engine, PoolEngine
from datasets_prep.gather import Progress, all_pictures, look_of, measure_missing, salt_of
from datasets_prep.kept import Captions, KeptRows
from datasets_prep.lint_stage import lint_marks
from datasets_prep.loading import Loader
from datasets_prep.publish import publish
from datasets_prep.quality import all_flags, unusable
from datasets_prep.records import Item, Listing, Prepared, PrepSource, Rejected
from datasets_prep.score_stage import check_scores, score_pictures, score_texts
from datasets_prep.sizes_stage import bucket_rows, sides, sizes_of
from datasets_prep.sorting import Sorting, counted, counts_in_words, new_sorting, sorted_rejections
from datasets_prep.sources import open_source
from datasets_prep.store import Pictures
from datasets_prep.workplace import NothingUsable, State, check_unedited, is_whole, read_state, workplace
from finetune.command_line import dump
from finetune.data.entries import Entry, Findings, first_few

VERSION = 2
"""Raised when the same input gives another result."""


@dataclass(frozen=True)
class Outcome:
    """What a preparation came to."""

    num_pictures: int
    """Of the result; with `shard`, the files that are this part's."""
    rejected: Mapping[str, int]
    """Files by reason."""
    notices: tuple[str, ...]
    is_new: bool
    """Whether anything was written; False where the result was there already."""


def silent(what: str, done: int, total: int) -> None:
    """Shows no progress."""


def prepare(config: PrepConfig, progress: Progress = silent) -> Outcome:
    """Writes the prepared folder, unless it is there and made from the same files with the same options.

    Raises ValueError and OSError with a sentence for what a user can mend.
    """
    findings = Findings()
    output = config.output.expanduser().resolve()
    columns = {"caption_column": config.caption_column, "image_column": config.image_column}
    source = open_source(config.source, **columns, output=output)
    check_captioner(config.captions)
    check_dedup(config.dedup, findings)
    check_scores(config.scores)
    with workplace(output, is_shard=config.shard is not None) as own:
        listing = source.listing(findings)
        decisions = read_decisions(output / "decisions.jsonl", findings)
        inputs = digest(config, listing, decisions)
        state = read_state(own)
        if state is not None and state.inputs == inputs and is_whole(output, state):
            return Outcome(state.num_pictures, state.rejected, (), is_new=False)
        if config.shard is None:
            check_unedited(output, state)
        entries = source.entries([item.source for item in listing.items], findings)
        items = [item for item in listing.items if item.source in entries]
        look = look_of(config.limits, config.background)
        part = items if config.shard is None else shard_of(items, config.shard)
        with engine_of(config) as engine:
            transient = measure_missing(source, part, own / "measured", engine, look, progress)
        if config.shard is not None:
            return Outcome(len(part), {}, (), is_new=True)
        pictures, unreadable = all_pictures(items, own / "measured", look, transient)
        rejected = [*listing.rejected, *unreadable]
        sorting, decided = new_sorting(pictures, decisions)
        first = ("scan and decode", len(pictures) + len(rejected), len(pictures), f"{len(rejected):,} cannot be read")
        sorting.figures.insert(0, first)
        stages = Stages(config, source, own, entries, findings, progress)
        captions, learned = stages.run(sorting, decided)
        return stages.write(output, State(inputs, {}), sorting, captions, learned, rejected)


def engine_of(config: PrepConfig) -> AbstractContextManager[Engine]:
    """Returns where the measuring runs."""
    if config.engine == "ray":
        from datasets_prep.engine_ray import RayEngine

        return RayEngine(None, config.limits.seconds, config.limits.memory_gb)
    return PoolEngine(config.workers or os.cpu_count() or 1, config.limits.seconds, config.limits.memory_gb)


def shard_of(items: Sequence[Item], shard: str) -> list[Item]:
    """Returns the i-th of n parts of the items; neighbours stay together, since tables are read in groups of rows."""
    number, _, total = shard.partition("/")
    start, end = (len(items) * part // int(total) for part in (int(number) - 1, int(number)))
    return list(items[start:end])


def digest(config: PrepConfig, listing: Listing, decisions: Mapping[str, Decided]) -> str:
    """Returns a hash of all that the result depends on; sizes and times stand for contents."""
    same = replace(config, workers=0, engine="pool", shard=None, output=Path(), source=("",))
    look = look_of(config.limits, config.background)
    found = hashlib.sha256(ascii((VERSION, salt_of(look), same, sorted(decisions.items()))).encode())
    for entry in [*listing.items, *listing.rejected]:
        found.update(ascii(entry).encode())
    return found.hexdigest()


@dataclass(frozen=True)
class Stages:
    """What comes behind the measuring."""

    config: PrepConfig
    source: PrepSource
    own: Path
    entries: Mapping[str, Entry]
    findings: Findings
    progress: Progress

    def run(
        self, sorting: Sorting, decided: Sequence[Decided | None]
    ) -> tuple[dict[int, Captions], dict[str, np.ndarray]]:
        """Decides which pictures stay in; returns their captions and learned scores."""
        config, pictures = self.config, sorting.pictures
        loader = Loader(self.source, pictures.sources, config.background)
        outside = (self.own, loader, self.findings, self.progress)
        gate = unusable(pictures, config.quality)
        sorting.leave_out("quality gate", gate, f"{len(gate):,} show nothing, or are too small or too long")
        find_copies(sorting, config.dedup, has_captions(pictures, self.entries), *outside)
        learned = score_pictures(sorting, config.scores, *outside)
        captions = caption_all(sorting, config, self.source.name, self.entries, decided, *outside)
        learned |= score_texts(sorting, config.scores, captions, *outside)
        return captions, learned

    def write(
        self,
        output: Path,
        state: State,
        sorting: Sorting,
        captions: Mapping[int, Captions],
        learned: Mapping[str, np.ndarray],
        rejected: Sequence[Rejected],
    ) -> Outcome:
        """Writes the result."""
        config, pictures, findings = self.config, sorting.pictures, self.findings
        loader = Loader(self.source, pictures.sources, config.background)
        left = sorted_rejections(rejected, sorting)
        kept = np.flatnonzero(sorting.is_in)
        if not len(kept):
            raise NothingUsable(
                f"source: {', '.join(config.source)} holds no usable picture "
                f"({counts_in_words(counted(left)) or 'no files'}). Expected pictures such as JPEG, PNG or WebP. Check "
                f"the path and these files: {first_few([f'{each.source} ({each.detail})' for each in left])}"
            )
        notes = pictures.table["notes"]
        for index in map(int, kept):
            for note in notes[index].as_py():
                findings.warn(note, pictures.sources[index])
        rows = KeptRows(
            pictures=pictures,
            indices=kept,
            captions=captions,
            entries=self.entries,
            flags=all_flags(pictures, config.quality),
            learned=learned,
            reported=sorting.reported,
            sizes=sizes_of(pictures, kept, config.buckets),
            is_held_out=sides(sorting, kept, config.split, findings),
            suffix=None if config.write.reencode == "no" else f".{config.write.reencode}",
        )
        prepared = Prepared(
            name=self.source.name,
            kept=rows,
            rejected=[asdict(each) for each in left],
            figures=sorting.figures,
            notices=findings.warnings,
            lint=lint_marks(rows, config),
            buckets=bucket_rows(rows),
            options=shown_options(config),
        )
        state = replace(state, num_pictures=len(rows), rejected=counted(left))
        publish(config, output, self.own, state, prepared, rows, self.source.read, loader.by_name)
        return Outcome(len(rows), state.rejected, findings.warnings, is_new=True)


def shown_options(config: PrepConfig) -> str:
    """Returns the options as YAML, without those that change nothing in the result."""
    lines = dump(config).splitlines(keepends=True)
    return "".join(line for line in lines if line.partition(":")[0] not in ("output", "workers", "engine", "shard"))


def has_captions(pictures: Pictures, entries: Mapping[str, Entry]) -> np.ndarray:
    """Returns which pictures [N] bring a caption along, beside them or in them."""
    embedded = pictures.table["caption"].is_valid().to_numpy()
    return embedded | np.array([bool(entries[source].captions) for source in pictures.sources], bool)
