"""From image files and captions to entries of the caches. Each image is decoded once for all its entries."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from finetune.batches.dataset import TrainingImages, latent_key
from finetune.batches.encoder import Encoder
from finetune.batches.inpaint_masks import WHOLE, Filling, filling_key, hole
from finetune.batches.latent_masks import LatentMasks
from finetune.batches.pixels import ImageFiles, view_pixels
from finetune.batches.store import Entry
from finetune.batches.view import View, validation_view, views
from finetune.data.kept_files import KeptFiles
from finetune.data.manifest import Record
from finetune.out_of_memory import explaining_out_of_memory
from finetune.plurals import plural

FLOAT32 = 4
LOWER = "Lower data.resolution or data.max_aspect."
BROKEN_VAE = "The VAE computes in float32, so its weights must be damaged. Give another checkpoint or variant."


@dataclass(frozen=True)
class Piece:
    """The material of an entry. It is a view of an image, or what a hole leaves of it."""

    record: Record
    view: View
    hole: int | None = None
    """Its number; None for latents of the view as it is."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.view.width, self.view.height


def num_bytes(piece: Piece, pixels_per_latent: int, channels: int) -> int:
    """Count the bytes of an entry in float32. That of a hole has its mask, too."""
    places = (piece.size[0] // pixels_per_latent) * (piece.size[1] // pixels_per_latent)
    return FLOAT32 * places * (channels + (piece.hole is not None))


def refuse_larger_folder(encoder: Encoder, missing: Iterable[Piece], folder: Path, max_gb: float) -> None:
    """Raise ValueError where missing entries would not fit into the folder's limit."""
    vae = encoder.components.vae
    sizes = encoder.family.pixels_per_latent(vae), vae.config.latent_channels
    new = sum(num_bytes(piece, *sizes) for piece in missing)
    held = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    if new and held + new > max_gb * 1e9:
        raise ValueError(
            f"cache.max_gb: got {max_gb:g}, but {folder} holds {held / 1e9:.3g} GB, and this run's latents are "
            f"{new / 1e9:.3g} GB more. Raise it, delete the folder or parts of it if no run uses them, or set "
            "cache.latents false, which encodes images at every step."
        )


def views_of_run(images: TrainingImages) -> Iterator[tuple[Record, View, bool]]:
    """Yield every view, an image's in a row, scored ones last. The third value says if a view is scored."""
    for bucket in images.buckets:
        for index in bucket.records:
            for view in views(images.records[index], bucket, images.data):
                yield images.records[index], view, False
    for bucket in images.held_out:
        for index in bucket.records:
            yield images.records[index], validation_view(bucket), True


def pieces_of_run(images: TrainingImages, vae_fingerprint: str) -> dict[str, Piece]:
    """List the material of the entries of latents, by key. That of an image comes in a row."""
    pieces: dict[str, Piece] = {}
    for record, view, is_scored in views_of_run(images):
        pieces.setdefault(latent_key(record, view, vae_fingerprint), Piece(record, view))
        for number in () if images.holes is None else (0,) if is_scored else images.holes.numbers:
            pieces.setdefault(filling_key(record, view, number, vae_fingerprint), Piece(record, view, number))
    return pieces


@torch.no_grad()
def encode_images(
    encoder: Encoder, files: ImageFiles, pieces: Iterable[tuple[str, Piece]]
) -> Iterator[tuple[str, Entry]]:
    """Encode views and holes to entries of latents. Yields (key, {"latents": [C H W]}) for views, and (key, {"filling":
    [1+C H W]}) for holes."""
    waiting: list[tuple[str, Piece, Tensor]] = []
    for key, piece, pixels in cut_pieces(files, pieces):
        if piece.hole is not None:
            yield key, {"filling": encode_hole(encoder, key, piece, pixels)}
            continue
        if waiting and waiting[0][1].size != piece.size:
            yield from encode_views(encoder, waiting)
            waiting = []
        waiting.append((key, piece, pixels))
        if len(waiting) == encoder.images_together(*piece.size):
            yield from encode_views(encoder, waiting)
            waiting = []
    yield from encode_views(encoder, waiting)
    files.refuse_unreadable()


def cut_pieces(files: ImageFiles, pieces: Iterable[tuple[str, Piece]]) -> Iterator[tuple[str, Piece, Tensor]]:
    """Yield the pieces of readable images with their pixels [3 h w]. A hole that hides everything needs no image."""
    for (_, size), group in itertools.groupby(pieces, lambda item: (item[1].record.file_name, item[1].size)):
        of_image = list(group)
        needed = [piece for _, piece in of_image if piece.hole != WHOLE]
        image = files.open(needed[0].record, size) if needed else None
        cut: dict[View, Tensor] = {}
        for key, piece in of_image:
            if piece.hole == WHOLE:
                yield key, piece, torch.zeros(3, size[1], size[0])
            elif image is not None:
                if piece.view not in cut:
                    cut = {piece.view: view_pixels(image, piece.view)}
                yield key, piece, cut[piece.view]


def encode_views(encoder: Encoder, waiting: Sequence[tuple[str, Piece, Tensor]]) -> Iterator[tuple[str, Entry]]:
    """Yield the entries of views of one size, encoded together."""
    if not waiting:
        return
    width, height = waiting[0][1].size
    what = f"while {plural(len(waiting), 'image')} of {width}x{height} were encoded to latents"
    with explaining_out_of_memory(what, LOWER):
        pixels = torch.stack([pixels for *_, pixels in waiting]).to(encoder.device)
        latents = encoder.encode_pixels(pixels, [key for key, *_ in waiting])
    for (key, piece, _), row in zip(waiting, latents.cpu(), strict=True):
        refuse_non_finite(row, f"latents of the image {piece.record.file_name}")
        yield key, {"latents": row}


def encode_hole(encoder: Encoder, key: str, piece: Piece, pixels: Tensor) -> Tensor:
    """Encode what a hole leaves of an image [3 h w]. The result is [1+C H W]."""
    assert piece.hole is not None
    width, height = piece.size
    hidden = hole(piece.record.sha256, piece.hole, width, height)[None].to(encoder.device)
    what = f"while an image of {width}x{height} with a hole was encoded to latents"
    with explaining_out_of_memory(what, LOWER):
        filling = encoder.encode_holes(pixels[None].to(encoder.device), Filling((key,), None, hidden))
    refuse_non_finite(filling, f"latents of the image {piece.record.file_name} with a hole")
    return filling[0].cpu()


def cut_masks(
    masks: LatentMasks, kept: KeptFiles, views: Mapping[str, tuple[Record, View]]
) -> Iterator[tuple[str, Entry]]:
    """Yield (key, {"mask": [1 H W]}) for views. A mask is decoded once for consecutive views."""
    for _, group in itertools.groupby(views.items(), lambda item: item[1][0].file_name):
        of_image = list(group)
        mask = masks.open(of_image[0][1][0], kept)
        for key, (_, view) in of_image:
            yield key, {"mask": masks.cut(mask, view)}


@torch.no_grad()
def encode_texts(encoder: Encoder, texts: Mapping[str, str], dtype: torch.dtype) -> Iterator[tuple[str, Entry]]:
    """Yield (key, {"embeddings": [N*L D], ...}) for {key: text}."""
    for key, text in texts.items():
        rows = encoder.encode_captions([text]).to(torch.device("cpu")).entry()
        rows = {name: row.to(dtype) if row.is_floating_point() else row for name, row in rows.items()}
        advice = f"They are kept in {str(dtype).removeprefix('torch.')}. Give another checkpoint or variant"
        advice += ", or launch with mixed_precision bf16." if dtype == torch.float16 else "."
        for row in rows.values():
            refuse_non_finite(row, f'embeddings of the caption "{text}"', advice)
        yield key, rows


def refuse_non_finite(values: Tensor, what: str, advice: str = BROKEN_VAE) -> None:
    """Raise ValueError where an entry has NaN or infinity. Training would spread them to the weights."""
    if not bool(values.isfinite().all()):
        raise ValueError(f"model.source: the {what} are not finite numbers (NaN or infinity). {advice}")
