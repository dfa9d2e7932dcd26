"""From image files to the pixels of views, ahead of the caches."""

from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from finetune.batches.view import View
from finetune.data.images.decode import open_rgb, resize_and_crop
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import ImageSource
from finetune.data.manifest import Record
from finetune.plurals import first_few, plural


def record_pixels(source: ImageSource, record: Record, view: View) -> Tensor:
    """Return a view of a record's image as float32 [3 H W] in [-1, 1]. Raises ValueError as `open_record`."""
    return view_pixels(open_record(source, record, (view.width, view.height), KeptFiles()), view)


def open_record(source: ImageSource, record: Record, size: tuple[int, int], kept: KeptFiles) -> Image.Image:
    """Decode a record's image, a JPEG perhaps smaller, but not below `size`. Raises ValueError with the file name where
    it cannot be decoded or has changed since it was listed: the cache's key is its hash."""
    data = kept.read(source, record.file_name, record.sha256)
    try:
        return open_rgb(data, draft=size)
    except ValueError as error:
        raise ValueError(f"{first_few((record.file_name,))}: {error}") from error


def view_pixels(image: Image.Image, view: View) -> Tensor:
    """Cut a decoded image to a view, float32 [3 H W] in [-1, 1]."""
    array = resize_and_crop(image, view.width, view.height, left=view.left, top=view.top, flip=view.flip)
    return torch.as_tensor(array).permute(2, 0, 1).float() / 127.5 - 1


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a run, read to fill its caches."""

    source: ImageSource
    kept: KeptFiles
    warnings: list[str] = field(default_factory=list[str])
    unreadable: list[str] = field(default_factory=list[str])

    def open(self, record: Record, size: tuple[int, int]) -> Image.Image | None:
        """Decode an image as `open_record`, and note its oddities. The result is None where it is unreadable."""
        try:
            image = open_record(self.source, record, size, self.kept)
        except ValueError as error:
            self.unreadable.append(str(error))
            return None
        for note in ("colour_warning", "blank_warning"):
            if note in image.info:
                self.warnings.append(f"{first_few((record.file_name,))} ({image.info[note]})")
        return image

    def refuse_unreadable(self) -> None:
        """Raise one ValueError for all unreadable images."""
        if self.unreadable:
            listed = sorted(set(self.unreadable))
            shown = "\n".join(listed[:10] + ([f"... and {len(listed) - 10} more"] if len(listed) > 10 else []))
            raise ValueError(
                f"data.folder: {plural(len(listed), 'image')} cannot be used. Repair or remove them, or let "
                f"`python -m datasets_prep` sort them out:\n{shown}"
            )
