"""From any source to a prepared data set: list, measure, gate, copies, captions, scores, split, write, report.

Each stage is a function of what the one before gave. What costs time is kept in OUTPUT/.prep by the content it belongs
to: measurements, pairs that were looked at twice, captions, learned scores. So a rerun, after a kill or with new
pictures, repeats only what is cheap, and always comes to the same bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from datasets_prep.caches.content import ContentCache
from datasets_prep.captions.own import refuse_lost_captions, with_folder_repeats
from datasets_prep.captions.stage import caption_all, check_captioner
from datasets_prep.config import PrepConfig
from datasets_prep.decisions import Decided, read_decisions
from datasets_prep.duplicates.stage import check_dedup, reject_equal, reject_near_duplicates
from datasets_prep.lint.checks import token_counter
from datasets_prep.lint.stage import lint_marks
from datasets_prep.masks import Masks, find_masks, masks_of_kept, take_out_masks, unused_masks
from datasets_prep.measure.gather import Progress, look_of, measure_missing, measured_images, salt_of
from datasets_prep.measure.image import TRANSPARENT, colour
from datasets_prep.measure.loader import Loader
from datasets_prep.measure.quality import all_flags, unusable
from datasets_prep.measure.store import MeasuredImages, as_keys, remove_unfinished, row_key
from datasets_prep.output.folder import NothingUsable, State, check_unedited, is_whole, read_state, workplace
from datasets_prep.output.publish import publish
from datasets_prep.records import Prepared, PrepSource, Rejected
from datasets_prep.report.thumbnails import SmallImage, cached_small_image
from datasets_prep.rows import Kept, Rows
from datasets_prep.scores.stage import check_scores, score_captions, score_images
from datasets_prep.selection import Selection, counted, counts_in_words, new_selection, sorted_rejections
from datasets_prep.source_metadata import Captions, SourceMetadata, metadata_of
from datasets_prep.sources.detect import open_source
from datasets_prep.split.stage import bucket_rows, sizes_of, split_images
from datasets_prep.texts import Texts
from datasets_prep.workers.pool import Engine, PoolEngine, usable_cores
from finetune.config.parse.command_line import dump
from finetune.data.captions.files import Reading
from finetune.data.listing import Findings, first_few

VERSION = 6
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
    reading = Reading(config.caption_column, config.captions.lines, is_training=False)
    given = config.source
    source = open_source(
        given, reading=reading, image_column=config.image_column, output=output, follow_links=config.follow_links
    )
    token_counter(config.lint)
    models = [check_captioner(config.captions), check_dedup(config.dedup, findings), *check_scores(config.scores)]
    with workplace(output, is_shard=config.shard is not None) as own:
        decisions = read_decisions(output / "decisions.jsonl", findings)
        files = list_files(config, source, [*models, *map(repr, sorted(decisions.items()))], findings)
        state = read_state(own)
        if state is not None and state.inputs == files.inputs and is_whole(output, state):
            return Outcome(state.num_pictures, state.rejected, (), is_new=False)
        if config.shard is None:
            check_unedited(output, state)
            remove_unfinished(own / "measured")
        found = measure_all(config, source, own, files, findings, progress)
        if isinstance(found, int):
            return Outcome(found, {}, (), is_new=True)
        inputs, (images, metadata, rejected) = files.inputs, found
        del files, found  # a hundred bytes a file
        selection = new_selection(images, decisions)
        first = ("scan and decode", len(images) + len(rejected), len(images), f"{len(rejected):,} cannot be read")
        selection.figures.insert(0, first)
        masks = find_masks(images, rejected, Loader(source, images.sources, config.background), findings)
        take_out_masks(selection, masks)
        stages = Stages(config, source, own, metadata, decisions, masks, findings, progress)
        captions, model_scores = stages.run(selection)
        return stages.write(output, State(inputs, {}), selection, captions, model_scores, rejected)


@dataclass(frozen=True)
class Files:
    """What a source holds, as columns."""

    names: Texts
    keys: np.ndarray
    """[N] What each is found by in the store of measurements."""
    rejected: Sequence[Rejected]
    inputs: str
    """Hash of all that the result depends on; sizes and times stand for contents."""


def list_files(config: PrepConfig, source: PrepSource, others: Sequence[str], findings: Findings) -> Files:
    """Returns what the source holds; `others` is what the result depends on besides files and options."""
    listing = source.listing(findings)
    salt = salt_of(look_of(config.limits, config.background))
    same = replace(config, workers=0, engine="pool", shard=None, output=Path(), source=("any",))
    inputs = hashlib.sha256(ascii((VERSION, salt, same, source.name, *others)).encode())
    for entry in [*listing.items, *listing.rejected]:
        inputs.update(ascii(entry).encode())
    names = Texts(item.source for item in listing.items)
    keys = as_keys([row_key(salt, item) for item in listing.items])
    return Files(names, keys, list(listing.rejected), inputs.hexdigest())


def measure_all(
    config: PrepConfig, source: PrepSource, own: Path, files: Files, findings: Findings, progress: Progress
) -> tuple[MeasuredImages, SourceMetadata, list[Rejected]] | int:
    """Returns what decodes, what the source says of it, and what cannot be read; of a shard how many files it has."""
    entries = with_folder_repeats(source.entries(files.names, findings), config.folder_repeats, findings)
    refuse_lost_captions(files.rejected, entries, findings)
    advice = "Or leave these files out of the source. Nothing was prepared."
    findings.raise_errors(f"source: {', '.join(config.source)} cannot be prepared as it is:", advice)
    chosen = np.flatnonzero([name in entries for name in files.names])
    chosen = chosen if config.shard is None else shard_of(chosen, config.shard)
    names, keys = files.names.only(chosen), files.keys[chosen]
    look = look_of(config.limits, config.background)
    with engine_of(config) as engine:
        transient = measure_missing(source, names, keys, own / "measured", engine, look, findings, progress)
    if config.shard is not None:
        return len(names)
    metadata = metadata_of(names, entries)
    del entries  # hundreds of bytes a file
    images, good, unreadable = measured_images(names, keys, own / "measured", transient)
    return images, metadata.only(good), [*files.rejected, *unreadable]


def engine_of(config: PrepConfig) -> AbstractContextManager[Engine]:
    """Returns where the measuring runs."""
    if config.engine == "ray":
        from datasets_prep.workers.ray_cluster import RayEngine

        return RayEngine(None, config.limits.seconds, config.limits.memory_gb)
    return PoolEngine(config.workers or usable_cores(), config.limits.seconds, config.limits.memory_gb)


def shard_of(places: np.ndarray, shard: str) -> np.ndarray:
    """Returns the i-th of n parts of an array; neighbours stay together, since tables are read in groups of rows."""
    number, _, total = shard.partition("/")
    start, end = (len(places) * part // int(total) for part in (int(number) - 1, int(number)))
    return places[start:end]


@dataclass(frozen=True)
class Stages:
    """What comes behind the measuring."""

    config: PrepConfig
    source: PrepSource
    own: Path
    metadata: SourceMetadata
    decisions: Mapping[str, Decided]
    masks: Masks
    findings: Findings
    progress: Progress

    def run(self, selection: Selection) -> tuple[Captions, dict[str, np.ndarray]]:
        """Decides which pictures stay in; returns their captions and learned scores."""
        config, images = self.config, selection.images
        loader = Loader(self.source, images.sources, config.background)
        outside = (self.own, loader, self.findings, self.progress)
        gate = unusable(images, config.quality)
        selection.reject("quality gate", gate, "without content, too small, too long, or with a flag to reject")
        has_caption = has_captions(images, self.metadata)
        reject_equal(selection, has_caption, loader)
        model_scores = score_images(selection, config.scores, *outside)
        reject_near_duplicates(selection, config.dedup, has_caption, config.split.share > 0, *outside)
        captions = caption_all(selection, config, self.metadata, self.decisions, *outside)
        model_scores |= score_captions(selection, config.scores, captions, *outside)
        return captions, model_scores

    def _tell_notes(self, selection: Selection) -> None:
        """Tells what was noted of the images that are kept."""
        config, images = self.config, selection.images
        is_lost = config.write.reencode == "no" and colour(config.background) != (255, 255, 255)
        for index in (index for index in sorted(images.notes) if selection.is_in[index]):
            for note in images.notes[index]:
                self.findings.warn(note, images.sources[index])
                if note == TRANSPARENT and is_lost:
                    self.findings.warn(
                        f"images judged on {config.background} that training will see on white; use --write.reencode "
                        "png to keep the background",
                        images.sources[index],
                    )

    def write(
        self,
        output: Path,
        state: State,
        selection: Selection,
        captions: Captions,
        model_scores: Mapping[str, np.ndarray],
        rejected: Sequence[Rejected],
    ) -> Outcome:
        """Writes the result."""
        config, images, findings = self.config, selection.images, self.findings
        loader = Loader(self.source, images.sources, config.background)
        masks = masks_of_kept(selection, self.masks)
        left = sorted_rejections([*rejected, *unused_masks(selection, self.masks, masks)], selection)
        indices = np.flatnonzero(selection.is_in)
        if not len(indices):
            counts = counts_in_words(counted(left))
            these = first_few([f"{each.source} ({each.detail})" for each in left])
            raise NothingUsable(
                f"source: {', '.join(config.source)} holds no usable picture ({counts or 'no files'}). Expected "
                "pictures such as JPEG, PNG or WebP. Check the path" + (f" and these files: {these}" if left else ".")
            )
        self._tell_notes(selection)
        kept = Kept(
            images=images,
            indices=indices,
            captions=captions,
            metadata=self.metadata,
            flags=all_flags(images, config.quality),
            model_scores=model_scores,
            reported={
                index: duplicate for index, duplicate in selection.reported.items() if selection.is_in[duplicate.keeper]
            },
            sizes=sizes_of(images, indices, config.buckets),
            is_held_out=split_images(selection, self.metadata, indices, config.split, findings),
            masks=masks,
            saved_as=None if config.write.reencode == "no" else (config.write.reencode, config.background),
        )
        marks = lint_marks(kept, config, findings)
        prepared = Prepared(
            name=self.source.name,
            kept=kept.rows(),
            rejected=Rows(len(left), lambda place: asdict(left[place])),
            figures=selection.figures,
            notices=findings.warnings,
            lint=marks,
            buckets=bucket_rows(kept),
            options=shown_options(config),
        )
        state = replace(state, num_pictures=len(kept), rejected=counted(left), is_complete=captions.is_complete)
        cache = ContentCache(self.own / "thumbnails.sqlite", findings)

        def thumbnail(name: str) -> SmallImage | None:
            return cached_small_image(name, self.source.read, loader.by_name, config.background, cache)

        try:
            publish(config, output, self.own, state, prepared, kept, self.source.read, thumbnail)
        finally:
            cache.close()
        return Outcome(len(kept), state.rejected, findings.warnings, is_new=True)


def shown_options(config: PrepConfig) -> str:
    """Returns the options as YAML, without those that change nothing in the result."""
    lines = dump(config).splitlines(keepends=True)
    return "".join(line for line in lines if line.partition(":")[0] not in ("output", "workers", "engine", "shard"))


def has_captions(images: MeasuredImages, metadata: SourceMetadata) -> np.ndarray:
    """Returns which pictures [N] bring a caption along, beside them or in them."""
    found = np.fromiter((text != "" for text in metadata.texts), bool, len(images))
    found[list(images.captions)] = True
    return found
