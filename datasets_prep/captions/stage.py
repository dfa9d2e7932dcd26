"""The captions of every image that is kept. They come from decisions, the source or the captioner."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets_prep.captioners import make_captioner
from datasets_prep.captions.cache import JsonLinesCache
from datasets_prep.captions.generate import ImageToCaption, final_captions, unwritten, write_captions
from datasets_prep.captions.name_words import name_in_words
from datasets_prep.captions.own import made_caption, with_trigger
from datasets_prep.captions.tags import TagEdits
from datasets_prep.config import CaptionsConfig
from datasets_prep.context import Context
from datasets_prep.decisions import Decided
from datasets_prep.selection import Selection
from datasets_prep.source_metadata import MADE, Captioned, Captions, SourceMetadata


def check_captioner(config: CaptionsConfig) -> str:
    """Return what captions depend on; refuse unusable options early."""
    return "" if config.captioner == "file_name" else make_captioner(config).identity()


def caption_all(context: Context, metadata: SourceMetadata, decisions: Mapping[str, Decided]) -> Captions:
    """Collect the captions of all images that remain. Each caption contains the trigger. A keeper also has the captions
    of its duplicates, after its own, with the files that they came from."""
    config, selection, findings = context.config, context.selection, context.findings
    kept, duplicates_by_keeper = np.flatnonzero(selection.is_in), selection.duplicates_by_keeper()

    def existing(index: int) -> tuple[dict[str, int], str]:
        decided = decisions.get(selection.images.hex(index)) if decisions else None
        if decided is not None and decided.text is not None:
            text = " ".join(decided.text.split())
            return ({text: index}, "decision") if text else ({}, "")  # a new one is wanted
        return source_captions(selection, metadata, [index, *duplicates_by_keeper.get(index, ())])

    def is_asked(index: int) -> bool:
        texts, origin = existing(index)
        return origin != "decision" and (options.mode != "fill" or not texts)

    options, edits = config.captions, TagEdits.from_config(config.tags)
    asked = [] if options.captioner == "file_name" else [index for index in map(int, kept) if is_asked(index)]
    written, is_complete = written_captions(context, asked)

    def final() -> Iterator[Captioned]:
        for index in map(int, kept):
            by, origin = existing(index)
            texts = tuple(by)
            if origin != "decision":
                texts, origin = chosen(index, texts, origin)
            written = {text: finished(text, origin) for text in texts if text}
            brought_from = {written[text]: by.get(text, MADE) for text in reversed(texts) if text}
            finals = tuple(dict.fromkeys(written.values()) or ("",))
            takes_over = any(member not in (index, MADE) for member in brought_from.values())
            yield Captioned(finals, origin, tuple(brought_from[text] for text in finals) if takes_over else ())

    def finished(text: str, origin: str) -> str:
        text = text if origin == "decision" else edits.applied(text)
        return with_trigger(text, config.trigger) if text else config.trigger or ""

    def chosen(index: int, texts: tuple[str, ...], origin: str) -> tuple[tuple[str, ...], str]:
        new = written.get(index, [])
        needs_name = not new and (not texts or (options.captioner == "file_name" and options.mode != "fill"))
        if needs_name:
            name = made_caption(selection.images.sources[index], config.trigger, findings)
            new = [options.prefix + options.template.replace("{caption}", name)] if name else []
        finals = final_captions(texts, new, options.mode)
        if texts and finals[0] == texts[0]:
            return finals, origin
        if not finals[0]:
            return finals, "nothing"
        return finals, "file name" if needs_name else options.captioner

    return Captions(kept, final(), is_complete=is_complete)


def source_captions(
    selection: Selection, metadata: SourceMetadata, members: Sequence[int]
) -> tuple[dict[str, int], str]:
    """Collect captions, with the first image that has each. Those beside the images win over embedded ones."""
    found: dict[str, int] = {}
    for member in members:
        for caption in metadata.captions(member):
            found.setdefault(caption, member)
    if found:
        return found, "source"
    for member in members:
        if member in selection.images.captions:
            found.setdefault(selection.images.captions[member], member)
    return found, "embedded"


def written_captions(context: Context, asked: Sequence[int]) -> tuple[dict[int, list[str]], bool]:
    """Write missing captions; also return whether all succeeded."""
    if not asked:
        return {}, True
    config, findings = context.config.captions, context.findings
    sources, seen = context.selection.images.sources, context.selection.images.seen
    images = [
        ImageToCaption(index, sources[index], seen(index), name_in_words(Path(sources[index]).stem)) for index in asked
    ]
    cache, captioner = JsonLinesCache(context.own / "captions.jsonl", findings), make_captioner(config)
    try:
        written = write_captions(
            captioner,
            config,
            images,
            lambda index: context.loader.at_least(index, config.max_side),
            cache,
            findings,
            lambda done, total: context.progress("captioning", done, total),
        )
        num_failed = len(unwritten(captioner, config, images, cache, findings))
    finally:
        cache.close()
    if num_failed == len(images):
        raise OSError(
            f"captions: {captioner.name} failed on every image ({num_failed:,}): {findings.warnings[-1]}. Mend that "
            "and run the same command again, or do without: captions.captioner file_name."
        )
    return {index: [each.text for each in texts] for index, texts in written.items()}, not num_failed
