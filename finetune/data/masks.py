"""Masks from alpha channels or from files, checked before training.

White and opaque is 1, trained on; black and transparent is 0. A mask has the size of its image, is cut as the image is,
and is averaged over the area of each latent.
"""

import os
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from finetune.config.mask import MaskConfig
from finetune.data.images.decode import crop_box, open_alpha, open_rgb
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import Findings, ImageSource
from finetune.data.visible_files import MASK_SUFFIX, is_image_name, visible_files

if TYPE_CHECKING:
    from finetune.data.manifest import Record


@dataclass(frozen=True, slots=True)
class MaskFile:
    """The file of an image's mask; with alpha the image itself."""

    file_name: str
    sha256: str


def open_mask(data: bytes, kind: Literal["alpha", "file"]) -> Image.Image | None:
    """Return the mask in a file's bytes as L, upright. It is None where the image of an alpha mask has no alpha. A mask
    image's own transparent parts are black. Raises ValueError as `open_rgb`."""
    return open_alpha(data) if kind == "alpha" else open_rgb(data, background=(0, 0, 0)).convert("L")


def cut_mask(
    mask: Image.Image, width: int, height: int, *, left: float, top: float, flip: bool, pixel_multiple: int
) -> np.ndarray:  # float32 [H W]
    """Return the mask's mean over each latent's pixels, 0 to 1. It is cut as `resize_and_crop` cuts the image."""
    assert width % pixel_multiple == 0 and height % pixel_multiple == 0, (width, height, pixel_multiple)
    box = crop_box(mask.width, mask.height, width, height, left=left, top=top)
    size = width // pixel_multiple, height // pixel_multiple
    shares = np.array(mask.convert("F").resize(size, Image.Resampling.BOX, box=box)) / np.float32(255)
    return np.ascontiguousarray(shares[:, ::-1] if flip else shares)


def checked_masks(
    images: Sequence["Record"],
    source: ImageSource,
    root: str,
    config: MaskConfig,
    findings: Findings,
    kept: KeptFiles,
    known: Mapping[str, str] | None = None,
) -> list[MaskFile | None]:
    """Return the mask of each image, or None with a warning.

    An image without a mask is trained on as a whole. `source` reads the masks, which for mask.kind file are in the
    folder `root`; `known` gives their names by those of the images where no folder has to be searched. Noted as errors:
    no masks at all, and masks that are of another size than their image, show nothing, exist twice, or cannot be read.
    """
    names: Mapping[str, str] = {image.file_name: image.file_name for image in images}
    if known is not None:
        names = known
    elif config.kind == "file":
        if config.folder is not None and not config.folder.is_dir():
            raise FileNotFoundError(f"mask.folder: there is no folder {config.folder}. Check the spelling.")
        names = _masks_by_image(list(names), root, config, findings)
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        found = list(pool.map(lambda image: _check(image, names.get(image.file_name), source, config, kept), images))
    is_any = any(result is not None for result in found)
    for image, result in zip(images, found, strict=True):
        if isinstance(result, tuple):
            findings.error(*result)
        elif result is None and is_any:
            findings.warn("images without a mask, which are trained on as a whole", image.file_name)
        elif result is None:
            findings.error(f"images without a mask, and none has one; expected {_expected(config)}", image.file_name)
    return [None if isinstance(result, tuple) else result for result in found]


def _expected(config: MaskConfig) -> str:
    if config.kind == "alpha":
        return "images with an alpha channel (not JPEG)"
    if config.folder is None:
        return f"NAME{MASK_SUFFIX}.png beside NAME.jpg"
    return f"{config.folder}/NAME.png for NAME.jpg"


def _masks_by_image(images: Sequence[str], root: str, config: MaskConfig, findings: Findings) -> dict[str, str]:
    suffix = MASK_SUFFIX if config.folder is None else ""
    by_stem: dict[str, str] = {}
    for name in visible_files(root, findings):
        stem = posixpath.splitext(name)[0]
        if is_image_name(name) and stem.endswith(suffix):
            if stem in by_stem:
                findings.error("masks that exist twice, in two formats", f"{by_stem[stem]} and {name}")
            by_stem[stem] = name
    stems = {name: posixpath.splitext(name)[0] + suffix for name in images}
    return {name: by_stem[stem] for name, stem in stems.items() if stem in by_stem}


def _check(
    image: "Record", name: str | None, source: ImageSource, config: MaskConfig, kept: KeptFiles
) -> MaskFile | tuple[str, str] | None:
    """Return the mask, None, or kind and item of a finding."""
    if name is None or config.kind == "none":
        return None
    try:
        is_image = config.kind == "alpha"
        data = kept.read(source, name, image.sha256) if is_image else source.read(name)
        mask = open_mask(data, config.kind)
    except (OSError, ValueError) as error:
        return "masks that cannot be read", f"{name} ({error})"
    if mask is None:
        return None
    if mask.size != (image.width, image.height):
        sizes = f"{mask.width}x{mask.height}, expected {image.width}x{image.height}"
        return "masks of another size than their image", f"{name} ({sizes})"
    if mask.getextrema()[1] == 0:
        return "masks that are black everywhere, so nothing of their images is trained on", name
    return MaskFile(name, image.sha256 if is_image else kept.add(data))
