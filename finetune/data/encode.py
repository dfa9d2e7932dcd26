"""Pictures to latents and captions to embeddings: into the caches beforehand, or batch by batch."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from finetune.config import CacheConfig, DataConfig
from finetune.data.buckets import Bucket
from finetune.data.cache import Entry, ShardStore, cache_key, fill, fingerprint
from finetune.data.captions import caption_variants
from finetune.data.dataset import Batch, Encoded, View, caption_options, latent_key, record_pixels, text_key, views
from finetune.data.entries import first_few
from finetune.data.holes import WHOLE, Filling, Holes, filling_key, hole, latent_hole
from finetune.data.latent_masks import LatentMasks
from finetune.data.manifest import PictureSource, Record
from finetune.models.base import Components, ModelFamily, Prompts, stack_prompts
from finetune.models.parts import Part, Parts
from finetune.randomness import generator


def validation_view(bucket: Bucket) -> View:
    """Returns the one view that a held-out picture is scored in: the centre, not mirrored."""
    return View(bucket.width, bucket.height, 0.5, 0.5, False)


def validation_caption(record: Record, config: DataConfig) -> str:
    """Returns the one caption that a held-out picture is scored with: its first, in its own order."""
    return caption_variants(record.captions[:1], replace(caption_options(config), shuffle_tags=False))[0]


def used_captions(
    records: Sequence[Record], buckets: Sequence[Bucket], held_out: Sequence[Bucket], data: DataConfig
) -> Iterator[str]:
    """Yields all captions that a run trains on and scores, in all their orders, some more than once."""
    options = caption_options(data)
    for bucket in buckets:
        for index in bucket.records:
            yield from caption_variants(records[index].captions, options)
    for bucket in held_out:
        for index in bucket.records:
            yield validation_caption(records[index], data)


def posterior_noise(keys: Sequence[str]) -> list[torch.Generator]:
    """Returns the generators that latents are sampled with: a function of the cache key, so that caching changes
    nothing."""
    return [generator(0, "posterior", key) for key in keys]


@contextmanager
def on_device(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Moves modules to the device, and afterwards back to where each was."""
    homes = [next(module.parameters()).device for module in modules]
    for module in modules:
        module.to(device)
    try:
        yield
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)


@contextmanager
def progress_bar(label: str, total: int, accelerator: Accelerator) -> Iterator[Callable[[int], None]]:
    """Shows progress on the main process; yields the function that advances it."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not accelerator.is_main_process) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)
        bar.update(task, completed=total)


class Encoder:
    """The VAE and text encoders of a run, with what was cached of them."""

    def __init__(
        self,
        family: ModelFamily,
        components: Components,
        device: torch.device,
        *,
        text_encoder_is_trained: bool,
        parts: Parts | None = None,
    ) -> None:
        """Parts bring back weights that were dropped; none where all are there."""
        self.family = family
        self.components = components
        self.device = device
        self.text_encoder_is_trained = text_encoder_is_trained
        self.parts = parts
        # One picture or caption at a time gives the same bits whatever else is encoded with it; a GPU gains too much
        # from batches, and is not promised bitwise repeatability.
        self.batch_size = 1 if device.type == "cpu" else 8
        self.unreadable: list[str] = []
        self.colour_warnings: list[str] = []

    def lent(self, *parts: Part) -> AbstractContextManager[None]:
        """Within it the parts have their weights."""
        return nullcontext() if self.parts is None else self.parts.lent(*parts)

    @torch.no_grad()
    def encode_views(
        self, source: PictureSource, items: Sequence[tuple[str, Record, View]]
    ) -> Iterator[tuple[str, Entry]]:
        """Yields (key, {"latents": [C H W]}) for (key, record, view) items."""
        by_size: dict[tuple[int, int], list[tuple[str, Record, View]]] = {}
        for item in items:
            by_size.setdefault((item[2].width, item[2].height), []).append(item)
        for group in by_size.values():
            for start in range(0, len(group), self.batch_size):
                decoded = []
                for key, record, view in group[start : start + self.batch_size]:
                    try:
                        pixels = record_pixels(source, record, view, self.colour_warnings.append)
                        decoded.append((key, record.file_name, pixels))
                    except ValueError as error:
                        self.unreadable.append(str(error))
                if decoded:
                    keys, names, pictures = zip(*decoded, strict=True)
                    latents = self._latents(torch.stack(pictures).to(self.device), keys)
                    for key, name, row in zip(keys, names, latents.cpu(), strict=True):
                        refuse_non_finite(row, f"latents of the picture {name}")
                        yield key, {"latents": row}
        self.refuse_unreadable()

    @torch.no_grad()
    def encode_fillings(
        self, source: PictureSource, items: Sequence[tuple[str, Record, View, int]]
    ) -> Iterator[tuple[str, Entry]]:
        """Yields (key, {"filling": [1+C H W]}) for (key, record, view, number of the hole) items, one at a time."""
        shown, pixels = None, torch.zeros(0)
        for key, record, view, number in items:
            if number == WHOLE:
                shown, pixels = None, torch.zeros(3, view.height, view.width)
            elif shown != (record.sha256, view):
                shown, pixels = (record.sha256, view), record_pixels(source, record, view)
            hidden = hole(record.sha256, number, view.width, view.height)
            filling = self._filling(pixels[None].to(self.device), Filling((key,), None, hidden[None].to(self.device)))
            refuse_non_finite(filling, f"latents of the picture {record.file_name} with a hole")
            yield key, {"filling": filling[0].cpu()}

    def check_pictures(self, source: PictureSource, items: Sequence[tuple[Record, View]]) -> Iterator[int]:
        """Decodes pictures without encoding them, yielding 1 for each; for runs that encode at every step."""
        for record, view in items:
            try:
                record_pixels(source, record, view, self.colour_warnings.append)
            except ValueError as error:
                self.unreadable.append(str(error))
            yield 1
        self.refuse_unreadable()

    def refuse_unreadable(self) -> None:
        """Raises one ValueError for all pictures that could not be read."""
        if self.unreadable:
            listed = sorted(set(self.unreadable))
            shown = "\n".join(listed[:10] + ([f"... and {len(listed) - 10} more"] if len(listed) > 10 else []))
            raise ValueError(
                f"data.folder: {len(listed)} pictures cannot be used. Repair or remove them, or let "
                f"`python -m datasets_prep` sort them out:\n{shown}"
            )

    @torch.no_grad()
    def encode_texts(self, texts: dict[str, str], dtype: torch.dtype) -> Iterator[tuple[str, Entry]]:
        """Yields (key, {"embeddings": [N*L D], ...}) for {key: text}."""
        for key, text in texts.items():
            rows = {name: value[0].cpu() for name, value in self._prompts([text]).items()}
            rows = {name: row.to(dtype) if row.is_floating_point() else row for name, row in rows.items()}
            advice = f"They are kept in {str(dtype).removeprefix('torch.')}. Give another checkpoint or variant"
            advice += ", or launch with mixed_precision bf16." if dtype == torch.float16 else "."
            for row in rows.values():
                refuse_non_finite(row, f'embeddings of the caption "{text}"', advice)
            yield key, rows

    @torch.no_grad()
    def latents(self, batch: Batch) -> Tensor:
        """Returns the batch's latents [B C H W], from the cache or encoded now."""
        if batch.latents is not None:
            return batch.latents
        assert batch.pixels is not None
        return self._latents(batch.pixels, batch.keys)

    def prompts(self, batch: Batch) -> Prompts:
        """Returns what the denoiser is conditioned on: from the caches, encoded now, or with tokens where `Network`
        encodes them."""
        return self.texts(batch) | self.given(batch)

    @torch.no_grad()
    def given(self, batch: Batch) -> Prompts:
        """Returns the part of the prompts that is no text: sizes, and filling of an inpainting model."""
        if batch.filling is None:
            return {"sizes": batch.sizes}
        encoded = batch.filling.encoded
        if encoded is None:
            assert batch.pixels is not None
            encoded = self._filling(batch.pixels, batch.filling)
        return {"sizes": batch.sizes, "filling": encoded}

    def _filling(self, pixels: Tensor, filling: Filling) -> Tensor:
        """The masks at the resolution of the latents, and the latents of the pictures with grey holes: [B 1+C H W]."""
        assert filling.holes is not None
        latents = self._latents(pixels * (filling.holes < 0.5), filling.keys)
        multiple = self.family.pixels_per_latent(self.components.vae)
        return torch.cat([latent_hole(filling.holes, multiple).to(latents.dtype), latents], dim=1)

    def texts(self, batch: Batch) -> Prompts:
        """Returns the part of the prompts that is text: from the cache, encoded now, or tokens."""
        if batch.prompts is not None:
            return batch.prompts
        if self.text_encoder_is_trained:
            tokens = self.family.tokenize(self.components.tokenizers, batch.captions)
            tokens = {name: value.to(self.device) for name, value in tokens.items()}
            with torch.no_grad():
                return self.family.encode_frozen(self.components.text_encoders, tokens)
        with torch.no_grad():
            return self._prompts(batch.captions)

    def _latents(self, pixels: Tensor, keys: Sequence[str]) -> Tensor:
        parts = [
            self.family.encode_images(
                self.components.vae,
                pixels[start : start + self.batch_size],
                posterior_noise(keys[start : start + self.batch_size]),
            )
            for start in range(0, len(pixels), self.batch_size)
        ]
        return torch.cat(parts).float()

    def _prompts(self, captions: Sequence[str]) -> Prompts:
        if self.batch_size == 1 and len(captions) > 1:
            rows = [self._prompts([caption]) for caption in captions]
            return stack_prompts([{name: value[0] for name, value in row.items()} for row in rows])
        tokens = self.family.tokenize(self.components.tokenizers, captions)
        on_device = {name: value.to(self.device) for name, value in tokens.items()}
        return self.family.encode_prompts(self.components.text_encoders, on_device)


BROKEN_VAE = "The VAE computes in float32, so that its weights must be damaged. Give another checkpoint or variant."


def refuse_non_finite(values: Tensor, what: str, advice: str = BROKEN_VAE) -> None:
    """Raises ValueError where what is to be cached holds NaN or infinity, which whatever trains on it catches."""
    if not bool(values.isfinite().all()):
        raise ValueError(f"model.source: the {what} are no numbers (NaN or infinity). {advice}")


def build_caches(
    encoder: Encoder,
    accelerator: Accelerator,
    records: Sequence[Record],
    buckets: Sequence[Bucket],
    held_out: Sequence[Bucket],
    source: PictureSource,
    data: DataConfig,
    cache: CacheConfig,
    folder: Path,
    dtype: torch.dtype,
    masks: LatentMasks | None = None,
    holes: Holes | None = None,
) -> Encoded:
    """Returns the filled caches; every process encodes a part, and what is there already is not made again. Masks are
    kept where latents are."""
    to_train = [
        (records[i], view) for bucket in buckets for i in bucket.records for view in views(records[i], bucket, data)
    ]
    to_score = [(records[index], validation_view(bucket)) for bucket in held_out for index in bucket.records]
    with encoder.lent("vae"):
        vae_fingerprint, latents, cut_masks = cache_pictures(
            encoder, accelerator, to_train, to_score, source, cache, folder, masks, holes
        )
    odd = sorted(set(gather_object(encoder.colour_warnings)))
    if odd:
        accelerator.print(f"warning: pictures whose colour profile cannot be used ({len(odd):,}): {first_few(odd)}")
    with encoder.lent("text_encoders"):
        encoder_fingerprint = text_fingerprint(encoder.components)
        text = None
        if cache.text:
            captions = {"", *used_captions(records, buckets, held_out, data)}
            by_key = {text_key(caption, encoder_fingerprint, dtype): caption for caption in sorted(captions)}
            text = ShardStore(folder / "text")
            with on_device(encoder.components.text_encoders, encoder.device):
                fill_store(
                    text,
                    list(by_key),
                    lambda keys: encoder.encode_texts({key: by_key[key] for key in keys}, dtype),
                    accelerator,
                    cache,
                    "Encoding captions",
                )
    return Encoded(vae_fingerprint, encoder_fingerprint, dtype, latents, text, cut_masks)


def cache_pictures(
    encoder: Encoder,
    accelerator: Accelerator,
    to_train: Sequence[tuple[Record, View]],
    to_score: Sequence[tuple[Record, View]],
    source: PictureSource,
    cache: CacheConfig,
    folder: Path,
    masks: LatentMasks | None,
    holes: Holes | None,
) -> tuple[str, ShardStore | None, ShardStore | None]:
    """Returns the VAE's fingerprint and the filled stores of latents and masks; without a cache pictures are only
    checked."""
    vae = encoder.components.vae
    vae_fingerprint = cache_key(fingerprint(vae), settings_text(dict(vae.config)))
    latents = cut_masks = None
    chosen = [*to_train, *to_score]
    if cache.latents:
        items = {latent_key(record, view, vae_fingerprint): (record, view) for record, view in chosen}
        latents = ShardStore(folder / "latents")
        with on_device([vae], encoder.device):
            fill_store(
                latents,
                list(items),
                lambda keys: encoder.encode_views(source, [(key, *items[key]) for key in keys]),
                accelerator,
                cache,
                "Encoding pictures",
            )
            if holes is not None:
                hidden = [(*item, number) for item in to_train for number in holes.numbers]
                hidden += [(*item, 0) for item in to_score]
                by_hole = {
                    filling_key(record, view, n, vae_fingerprint): (record, view, n) for record, view, n in hidden
                }
                fill_store(
                    latents,
                    list(by_hole),
                    lambda keys: encoder.encode_fillings(source, [(key, *by_hole[key]) for key in keys]),
                    accelerator,
                    cache,
                    "Encoding pictures with holes",
                )
        if masks is not None:
            of_key = {masks.key(record, view): (record, view) for record, view in chosen}
            cut_masks = ShardStore(folder / "masks")
            fill_store(
                cut_masks,
                list(of_key),
                lambda keys: ((key, {"mask": masks.read(*of_key[key])}) for key in keys),
                accelerator,
                cache,
                "Cutting masks",
            )
    else:
        once = list({record.file_name: (record, view) for record, view in chosen}.values())
        share = once[accelerator.process_index :: accelerator.num_processes]
        with progress_bar("Checking pictures", len(share), accelerator) as advance:
            for done in encoder.check_pictures(source, share):
                advance(done)
    return vae_fingerprint, latents, cut_masks


def settings_text(settings: dict[str, Any]) -> str:
    """Returns the settings of a model that can alter its output, such as a scaling factor, as stable text."""
    origin = ("transformers_version", "architectures", "dtype", "torch_dtype")
    kept = {name: value for name, value in settings.items() if not name.startswith("_") and name not in origin}
    return json.dumps(kept, sort_keys=True, default=str)


def text_fingerprint(components: Components, weights: Sequence[str] | None = None) -> str:
    """Returns a hash over all that decides a text's embeddings: tokenizers, encoders' weights and their settings;
    `weights` are the fingerprints of encoders whose weights were dropped."""
    parts = []
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
    keys: list[str],
    encode: Callable[[Sequence[str]], Iterator[tuple[str, Entry]]],
    accelerator: Accelerator,
    cache: CacheConfig,
    label: str,
) -> None:
    """Makes the missing entries with all processes, then waits until all are there."""
    if accelerator.is_main_process:
        store.remove_torn()
    # One list for all: another run may be filling the same folder, and each process would see it at another moment.
    (missing,) = broadcast_object_list([store.missing(keys)])
    if missing:
        with progress_bar(label, len(missing), accelerator) as advance:
            fill(
                store,
                missing,
                encode,
                shard_size=cache.shard_size,
                rank=accelerator.process_index,
                num_processes=accelerator.num_processes,
                progress=lambda done: advance(done * accelerator.num_processes),
            )
        accelerator.wait_for_everyone()
        store.refresh()
    for warning in store.warnings:
        accelerator.print(f"warning: {warning}")
    absent = store.missing(keys)
    if absent:
        raise ValueError(
            f"cache: {len(absent)} entries are still missing after {label.lower()}; is {store.folder} on a shared disk?"
        )
