from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from finetune.batches.buckets import Bucket
from finetune.batches.dataset import latent_key, text_key
from finetune.batches.pixels import record_pixels
from finetune.batches.view import View, view_sizes, views
from finetune.config.sections import DataConfig
from finetune.data.images.decode import resize_and_crop
from finetune.data.manifest import Record, read_manifest
from finetune.data.visible_files import FolderSource
from tests.tiny.sd import save_pictures

RECORD = Record("a.png", ("a",), 100, 80, "ab" * 32)
VIEW = View(64, 64, 0.25, 0.5, False)


def test_the_key_of_latents_changes_with_picture_size_crop_flip_and_autoencoder() -> None:
    changes = ({}, {"width": 72}, {"height": 72}, {"left": 0.26}, {"top": 0.6}, {"flip": True})
    keys = [latent_key(RECORD, replace(VIEW, **change), "vae") for change in changes]
    keys += [latent_key(replace(RECORD, sha256="cd" * 32), VIEW, "vae"), latent_key(RECORD, VIEW, "other")]
    assert len(set(keys)) == len(keys)


def test_the_key_of_latents_ignores_what_does_not_alter_them() -> None:
    renamed = replace(RECORD, file_name="b.png", captions=("x",), weight=0.5, repeats=3, split="train")
    assert latent_key(renamed, VIEW, "vae") == latent_key(RECORD, VIEW, "vae")


@pytest.mark.parametrize("flip", [False, True])
def test_sizes_are_those_of_the_crop_that_was_cut(flip: bool) -> None:
    """The scaled image is cut again at the place in the sizes."""
    record, view = Record("a.png", ("a",), 160, 80, "ab" * 32), View(48, 64, 0.25, 0.5, flip)
    height, width, top, left, *target = view_sizes(record, view)
    assert (height, width, target) == (80, 160, [64, 48])
    ramp = np.repeat(np.arange(160, dtype=np.uint8)[None, :, None], 80, 0).repeat(3, 2)
    image = Image.fromarray(ramp)
    cut = resize_and_crop(image, 48, 64, left=0.25, top=0.5, flip=flip).astype(int)
    mirrored = ImageOps.mirror(image) if flip else image
    scaled = np.asarray(mirrored.resize((128, 64), Image.Resampling.LANCZOS)).astype(int)
    assert top == 0
    assert np.abs(cut[:, 4:-4] - scaled[top : top + 64, left : left + 48][:, 4:-4]).max() <= 1


def test_the_key_of_a_text_changes_with_text_encoder_and_number_format() -> None:
    keys = {text_key(text, "encoder", torch.float32) for text in ("a", "b", "")}
    assert len(keys | {text_key("a", "other", torch.float32), text_key("a", "encoder", torch.bfloat16)}) == 5


def test_each_view_of_a_picture_has_a_key_of_its_own_and_is_the_same_in_every_run() -> None:
    config = DataConfig("x", resolution=64, bucket_step=16, crop="random", flip=True, num_crops=3)
    bucket = Bucket(48, 80, (0,))
    chosen = views(RECORD, bucket, config)
    assert len({latent_key(RECORD, view, "vae") for view in chosen}) == 6
    assert chosen == views(RECORD, bucket, config)
    assert {view.top for view in chosen} == {0.5}  # this image has room to the sides only
    exact = views(replace(RECORD, width=48, height=80), bucket, config)
    assert [(view.left, view.flip) for view in exact] == [(0.5, False), (0.5, True)]


def test_a_picture_that_changed_after_it_was_listed_never_enters_the_cache(tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "pictures", count=2, size=32)
    manifest = read_manifest(str(folder))
    view = View(32, 32, 0.5, 0.5, False)
    assert record_pixels(manifest.source, manifest.records[0], view).shape == (3, 32, 32)
    (folder / "0000.png").write_bytes((folder / "0001.png").read_bytes())
    with pytest.raises(ValueError, match=r"0000\.png was changed"):
        record_pixels(FolderSource(str(folder)), manifest.records[0], view)
