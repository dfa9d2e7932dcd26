"""Preparation of a dataset from any source.

The stages are: list, measure, reject, caption, score, split, write, report. Each stage is a function of what the one
before returned. Slow results are cached in OUTPUT/.prep by content: measurements, compared pairs, captions, scores of
models. So a rerun, after a kill or with new images, repeats only what is cheap, and always gives the same bytes.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets_prep.captions.stage import caption_all, check_captioner
from datasets_prep.config import PrepConfig
from datasets_prep.context import Context
from datasets_prep.decisions import Decided, read_decisions
from datasets_prep.duplicates.stage import check_dedup, reject_equal, reject_near_duplicates
from datasets_prep.inputs import list_files, measure_all
from datasets_prep.lint.checks import token_counter
from datasets_prep.masks import find_masks, take_out_masks
from datasets_prep.measure.columns import MeasuredImages
from datasets_prep.measure.gather import Progress
from datasets_prep.measure.loader import Loader
from datasets_prep.measure.quality import unusable
from datasets_prep.measure.store import remove_unfinished
from datasets_prep.output.folder import State, check_unedited, is_whole, read_state, workplace
from datasets_prep.output.result import Described, write_result
from datasets_prep.output.upload import Upload, open_upload
from datasets_prep.records import PrepSource
from datasets_prep.scores.stage import check_scores, score_captions, score_images
from datasets_prep.selection import new_selection
from datasets_prep.source_metadata import Captions, SourceMetadata
from datasets_prep.sources.detect import open_source
from datasets_prep.sources.remote import RemoteSource, remote_source
from finetune.data.captions.reading import CaptionReading
from finetune.data.listing import Findings
from finetune.data.remote.storage import StorageError, is_url


@dataclass(frozen=True)
class Outcome:
    """Result of a preparation."""

    num_pictures: int
    """Images of the result; with `shard`, files of this part."""
    rejected: Mapping[str, int]
    """Files by reason."""
    notices: tuple[str, ...]
    is_new: bool
    """False where the result was there already."""


def prepare(config: PrepConfig, progress: Progress = lambda what, done, total: None) -> Outcome:
    """Write the prepared folder, unless it is up to date. Raises ValueError and OSError for mistakes of users.

    Images below URLs are fetched first. Where the output is a URL, the folder is in `config.work`, and is uploaded.
    """
    findings = Findings()
    output = config.folder
    if config.url is not None and config.write.format == "auto" and not config.write.txt:
        config = replace(config, write=replace(config.write, format="parquet"))  # what recipes read from URLs
    source, models, upload = check_inputs(config, output, findings)
    with workplace(output, is_shard=config.shard is not None) as own:
        if upload is not None:
            upload.bring_decisions(output)
        opened = source.fetched(progress) if isinstance(source, RemoteSource) else source
        outcome = _prepare(config, opened, models, own, findings, progress)
        state = read_state(own)
        if upload is None or config.shard is not None or state is None:
            return outcome
        num_changed = upload.send(output, state, progress)
        return replace(outcome, is_new=outcome.is_new or num_changed > 0)


def _prepare(
    config: PrepConfig, source: PrepSource, models: list[str], own: Path, findings: Findings, progress: Progress
) -> Outcome:
    output = own.parent
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
    del files, found  # a hundred bytes per file
    selection = new_selection(images, decisions)
    first = ("scan and decode", len(images) + len(rejected), len(images), f"{len(rejected):,} cannot be read")
    selection.figures.insert(0, first)
    loader = Loader(source, images.sources, config.background)
    masks = find_masks(images, rejected, loader, findings)
    take_out_masks(selection, masks)
    context = Context(config, selection, loader, findings, progress, own)
    captions, model_scores = run_stages(context, metadata, decisions)
    described = Described(metadata, masks, captions, model_scores)
    state = write_result(context, output, State(inputs, {}), described, rejected)
    return Outcome(state.num_pictures, state.rejected, findings.warnings, is_new=True)


def check_inputs(
    config: PrepConfig, output: Path, findings: Findings
) -> tuple[PrepSource | RemoteSource, list[str], Upload | None]:
    """Open the source, and check all models and a remote output.

    Everything that cannot be used is refused at once. The second part is what the result depends on in models and
    packages.
    """
    sources: list[PrepSource | RemoteSource] = []
    models: list[str] = []
    uploads: list[Upload] = []
    errors: list[ValueError | OSError] = []
    checks: tuple[Callable[[], object], ...] = (
        lambda: sources.append(find_source(config, output)),
        lambda: uploads.extend(open_upload(url) for url in [config.url] if url is not None),
        lambda: token_counter(config.lint),
        lambda: models.append(check_captioner(config.captions)),
        lambda: models.append(check_dedup(config.dedup, findings)),
        lambda: models.extend(check_scores(config.scores)),
    )
    for check in checks:
        try:
            check()
        except (ValueError, FileNotFoundError, StorageError) as error:
            errors.append(error)
    if len(errors) > 1:
        raise ValueError("\n".join(map(str, errors)))
    if errors:
        raise errors[0]
    return sources[0], models, uploads[0] if uploads else None


def find_source(config: PrepConfig, output: Path) -> PrepSource | RemoteSource:
    """Open the source on this machine, or list it below its URLs."""
    own = config.captions
    reading = CaptionReading(
        config.caption_column, own.lines, is_training=False, keeps_rating=own.keep_rating, ignored=own.ignore
    )
    opened = functools.partial(
        open_source,
        reading=reading,
        image_column=config.image_column,
        output=output,
        follow_links=config.follow_links,
    )
    if any(map(is_url, config.source)):
        return remote_source(config.source, config.url, lambda url: config.work_folder("fetched", url), opened)
    return opened(config.source)


def run_stages(
    context: Context, metadata: SourceMetadata, decisions: Mapping[str, Decided]
) -> tuple[Captions, dict[str, np.ndarray]]:
    """Decide which images remain; return their captions and learned scores."""
    selection = context.selection
    gate = unusable(selection.images, context.config.quality)
    selection.reject("quality gate", gate, "without content, too small, too long, or with a flag to reject")
    has_caption = has_captions(selection.images, metadata)
    reject_equal(context, has_caption)
    model_scores = score_images(context)
    reject_near_duplicates(context, has_caption)
    captions = caption_all(context, metadata, decisions)
    return captions, model_scores | score_captions(context, captions)


def has_captions(images: MeasuredImages, metadata: SourceMetadata) -> np.ndarray:
    """Return which images [N] have a caption of their own. It may be beside the image or embedded in it."""
    found = np.fromiter((text != "" for text in metadata.texts), bool, len(images))
    found[list(images.captions)] = True
    return found
