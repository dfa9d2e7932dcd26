"""Fill the caches of a run with all processes."""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator  # pyright: ignore[reportMissingTypeStubs]
from accelerate.utils import (  # pyright: ignore[reportMissingTypeStubs]
    broadcast_object_list,  # pyright: ignore[reportUnknownVariableType]
    gather_object,
)
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from finetune.batches.cache_entries import (
    Piece,
    cut_masks,
    encode_images,
    encode_texts,
    pieces_of_run,
    refuse_larger_folder,
    views_of_run,
)
from finetune.batches.dataset import Encoded, TrainingImages, caption_options, text_key, validation_caption
from finetune.batches.encoder import Encoder, explaining_encoding, on_device
from finetune.batches.pixels import ImageFiles
from finetune.batches.preview_prompts import kept_prompts
from finetune.batches.store import Entry, ShardStore, cache_key, fill, fingerprint
from finetune.config.outputs import PreviewConfig
from finetune.config.sections import CacheConfig
from finetune.data.captions.choice import caption_variants
from finetune.data.images.decode import BLANK
from finetune.models.family import Components
from finetune.plurals import first_few, plural
from finetune.processes.ranks import ranks

Material = TypeVar("Material")
"""What an entry is encoded from."""


def build_caches(
    encoder: Encoder,
    accelerator: Accelerator,
    images: TrainingImages,
    cache: CacheConfig,
    folder: Path,
    dtype: torch.dtype,
    previews: PreviewConfig | None = None,
) -> Encoded:
    """Fill the caches; every process encodes a part of the missing entries. Masks are cached where latents are. Prompts
    of previews are encoded while the text encoders have weights, unless these train."""
    with encoder.lent("vae"):
        vae_fingerprint, latents, masks = cache_images(encoder, accelerator, images, cache, folder)
    text = None
    previews = PreviewConfig() if previews is None or encoder.text_encoder_is_trained else previews
    with encoder.lent("text_encoders"):
        encoder_fingerprint = text_fingerprint(encoder.components)
        needed = encoder.components.text_encoders if cache.text or previews.prompts else ()
        with explaining_encoding("captions and prompts of previews"), on_device(needed, encoder.device):
            if cache.text:
                captions = {"", *used_captions(images)}
                by_key = {text_key(caption, encoder_fingerprint, dtype): caption for caption in sorted(captions)}
                text = ShardStore(folder / "text")
                fill_store(
                    text,
                    by_key,
                    lambda part: encode_texts(encoder, part, dtype),
                    accelerator,
                    cache,
                    "Encoding captions",
                )
            drawing = kept_prompts(
                encoder.family, encoder.components, previews, accelerator, text_encoder_is_trained=False
            )
    return Encoded(vae_fingerprint, encoder_fingerprint, dtype, latents, text, masks, drawing)


def image_warnings(odd: set[str]) -> Iterator[str]:
    """List a sentence for each kind of oddity of images, counted."""
    blank = sorted(text for text in odd if BLANK in text)
    if others := sorted(odd - set(blank)):
        yield f"images whose colour profile cannot be used ({len(others):,}): {first_few(others)}"
    if blank:
        yield (
            f"images that are one colour where transparency is white ({len(blank):,}): {first_few(blank)}. Prepare "
            "them on another: python -m datasets_prep --background black --write.reencode png"
        )


def cache_images(
    encoder: Encoder, accelerator: Accelerator, images: TrainingImages, cache: CacheConfig, folder: Path
) -> tuple[str, ShardStore | None, ShardStore | None]:
    """Fill the stores of latents and masks; also return the VAE's fingerprint."""
    vae, masks, files = encoder.components.vae, images.masks, ImageFiles(images.source, images.kept)
    vae_fingerprint = cache_key(fingerprint(vae), settings_text(dict(vae.config)))
    latents = cut = None
    if cache.latents:
        pieces, latents = pieces_of_run(images, vae_fingerprint), ShardStore(folder / "latents")
        if cache.max_gb is not None:
            missing = [pieces[key] for key in latents.missing(pieces)]
            refuse_larger_folder(encoder, missing, folder, cache.max_gb)
        with on_device([vae], encoder.device):
            encode = partial(encode_images, encoder, files)
            fill_store(latents, pieces, lambda part: encode(part.items()), accelerator, cache, "Encoding images")
    else:
        check_images(accelerator, files, images)
    if cache.latents and masks is not None:
        of_key = {masks.key(record, view): (record, view) for record, view, _ in views_of_run(images)}
        cut = ShardStore(folder / "masks")
        fill_store(cut, of_key, partial(cut_masks, masks, images.kept), accelerator, cache, "Cutting masks")
    images.kept.release()
    ranks().exchange()  # shares may take very different times, which a collective would not wait for
    odd: list[str] = gather_object(files.warnings)  # pyright: ignore[reportUnknownVariableType]
    warn(accelerator, image_warnings(set(odd)))
    return vae_fingerprint, latents, cut


def check_images(accelerator: Accelerator, files: ImageFiles, images: TrainingImages) -> None:
    """Decode every image once, a part on every process."""
    once = list({record.file_name: Piece(record, view) for record, view, _ in views_of_run(images)}.values())
    share = once[accelerator.process_index :: accelerator.num_processes]
    with progress_bar("Checking images", len(share), accelerator) as advance:
        for piece in share:
            files.open(piece.record, piece.size)
            advance(1)
    files.refuse_unreadable()


def described_settings(settings: dict[str, object]) -> dict[str, object]:
    """Select a model's settings that can alter its output. A scaling factor is one."""
    origin = ("transformers_version", "architectures", "dtype", "torch_dtype")
    return {name: value for name, value in settings.items() if not name.startswith("_") and name not in origin}


def settings_text(settings: dict[str, object]) -> str:
    """Write a model's settings that can alter its output as stable text."""
    return json.dumps(described_settings(settings), sort_keys=True, default=str)


def text_fingerprint(components: Components, weights: Sequence[str] | None = None) -> str:
    """Hash all that decides a text's embeddings. That is tokenizers, encoders' weights and their settings; `weights`
    are the fingerprints of encoders whose weights were dropped."""
    parts: list[object] = []
    weights = weights or [fingerprint(text_encoder) for text_encoder in components.text_encoders]
    for tokenizer in components.tokenizers:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        rules |= {"padding": None, "truncation": None}  # left behind by whoever called it last
        special = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length
        parts += [json.dumps(rules, sort_keys=True), special]
    for text_encoder, sha256 in zip(components.text_encoders, weights, strict=True):
        parts += [sha256, settings_text(text_encoder.config.to_dict())]
    return cache_key(*parts)


def fill_store(
    store: ShardStore,
    material: Mapping[str, Material],
    encode: Callable[[dict[str, Material]], Iterator[tuple[str, Entry]]],
    accelerator: Accelerator,
    cache: CacheConfig,
    label: str,
) -> None:
    """Encode the missing entries of {key: material} with all processes. Each waits for all."""
    if accelerator.is_main_process:
        store.remove_torn()
    ranks().exchange()
    # One list for all: another run may be filling the same folder, and each process would see it at another moment.
    shared: list[list[str]] = broadcast_object_list([store.missing(material)])
    (missing,) = shared
    if missing:
        with progress_bar(label, len(missing), accelerator) as advance:
            fill(
                store,
                missing,
                lambda keys: encode({key: material[key] for key in keys}),
                shard_size=cache.shard_size,
                rank=accelerator.process_index,
                num_processes=accelerator.num_processes,
                progress=lambda done: advance(done * accelerator.num_processes),
            )
        ranks().exchange()
        store.refresh()
    warn(accelerator, store.warnings)
    if absent := store.missing(material):
        raise ValueError(
            f"cache: {plural(len(absent), 'entry is', 'entries are')} still missing after {label.lower()}; is "
            f"{store.folder} on a shared disk?"
        )


def warn(accelerator: Accelerator, warnings: Iterable[str]) -> None:
    """Print warnings on the main process."""
    for warning in warnings:
        accelerator.print(f"warning: {warning}")  # pyright: ignore[reportUnknownMemberType]


def used_captions(images: TrainingImages) -> Iterator[str]:
    """List all texts that a run trains on and scores. Captions come in all their orders, some more than once."""
    options = caption_options(images.data)
    yield from images.prompts
    for bucket in images.buckets:
        for index in bucket.records:
            yield from caption_variants(images.records[index].captions, options)
    for bucket in images.held_out:
        for index in bucket.records:
            yield validation_caption(images.records[index], images.data)


@contextmanager
def progress_bar(label: str, total: int, accelerator: Accelerator) -> Generator[Callable[[int], None]]:
    """Show progress on the main process. The context is the function that advances it."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not accelerator.is_main_process) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)
        bar.update(task, completed=total)
