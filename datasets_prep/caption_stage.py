"""Gives every picture that is kept its captions: decided ones, those it brings, and what the captioner writes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets_prep.caption_cache import JsonLinesCache
from datasets_prep.captioners import make_captioner
from datasets_prep.captioning import Picture, final_captions, write_captions
from datasets_prep.captions import made_caption, name_in_words, with_trigger
from datasets_prep.config import CaptionsConfig, PrepConfig
from datasets_prep.decisions import Decided
from datasets_prep.gather import Progress
from datasets_prep.kept import Captions
from datasets_prep.loading import Loader
from datasets_prep.sorting import Sorting
from finetune.data.entries import Entry, Findings


def check_captioner(config: CaptionsConfig) -> None:
    """Refuses options that the captioner cannot follow, before anything else is done."""
    if config.captioner != "file_name":
        make_captioner(config)


def caption_all(
    sorting: Sorting,
    config: PrepConfig,
    source_name: str,
    entries: Mapping[str, Entry],
    decided: Sequence[Decided | None],
    own: Path,
    loader: Loader,
    findings: Findings,
    progress: Progress,
) -> dict[int, Captions]:
    """Returns the captions of every picture that is in, by its index, with the trigger in each.

    A keeper has the captions of its copies too, behind its own.
    """
    kept = [int(index) for index in np.flatnonzero(sorting.is_in)]
    brought = brought_captions(sorting, kept, entries)
    texts = {index: decision.text for index in kept if (decision := decided[index]) is not None and decision.text}
    asked = [
        index for index in kept if index not in texts and (config.captions.mode != "fill" or not brought[index].texts)
    ]
    written = written_captions(sorting, config.captions, asked, own, loader, findings, progress)
    result: dict[int, Captions] = {}
    for index in kept:
        name = sorting.pictures.sources[index]
        if index in texts:
            result[index] = Captions((str(texts[index]),), "decision")
            continue
        own_words = framed(config.captions, made_caption(name, source_name, config.trigger, Findings()))
        new = written.get(index, [])
        if config.captions.captioner == "file_name" and config.captions.mode != "fill":
            new = [own_words]
        finals = final_captions(brought[index].texts, new, config.captions.mode, lambda own_words=own_words: own_words)
        origin = brought[index].origin if brought[index].texts and finals[0] == brought[index].texts[0] else None
        if origin is None:
            origin = "file name" if not new or config.captions.captioner == "file_name" else config.captions.captioner
        if origin == "file name":
            made_caption(name, source_name, config.trigger, findings)  # notes where the words are from
        result[index] = Captions(finals, origin)
    return {index: triggered(captions, config.trigger) for index, captions in result.items()}


def brought_captions(sorting: Sorting, kept: Sequence[int], entries: Mapping[str, Entry]) -> dict[int, Captions]:
    """Returns what pictures bring along themselves or through their copies: from beside them, else from in them."""
    copies_of, sources = sorting.copies_of(), sorting.pictures.sources
    embedded = sorting.pictures.table["caption"]
    result = {}
    for index in kept:
        members = [index, *copies_of.get(index, [])]
        beside = [caption for member in members for caption in entries[sources[member]].captions]
        inside = [text for member in members if (text := embedded[member].as_py()) is not None]
        captions = Captions(tuple(dict.fromkeys(beside or inside)), "source" if beside else "embedded")
        result[index] = captions
    return result


def written_captions(
    sorting: Sorting,
    config: CaptionsConfig,
    asked: Sequence[int],
    own: Path,
    loader: Loader,
    findings: Findings,
    progress: Progress,
) -> dict[int, list[str]]:
    """Returns what the captioner writes for the pictures that need it."""
    if config.captioner == "file_name" or not asked:
        return {}
    sources, table = sorting.pictures.sources, sorting.pictures.table
    pictures = [
        Picture(index, sources[index], table["sha256"][index].as_py(), name_in_words(Path(sources[index]).stem))
        for index in asked
    ]
    cache = JsonLinesCache(own / "captions.jsonl", findings)
    try:
        written = write_captions(
            make_captioner(config),
            config,
            pictures,
            loader.small,
            cache,
            findings,
            lambda done, total: progress("captioning", done, total),
        )
    finally:
        cache.close()
    return {index: [each.text for each in texts] for index, texts in written.items()}


def framed(config: CaptionsConfig, text: str) -> str:
    """Returns a caption with the prefix and in the template."""
    return config.prefix + config.template.replace("{caption}", text)


def triggered(captions: Captions, trigger: str | None) -> Captions:
    """Returns the captions with the trigger in each, each once."""
    return Captions(tuple(dict.fromkeys(with_trigger(text, trigger) for text in captions.texts)), captions.origin)
