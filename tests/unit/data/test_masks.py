from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.batches.buckets import assign_buckets
from finetune.batches.latent_masks import LatentMasks
from finetune.batches.pixels import record_pixels
from finetune.batches.view import View, views
from finetune.config.mask import MaskConfig
from finetune.config.sections import DataConfig
from finetune.data.manifest import Manifest, read_manifest
from finetune.data.masks import cut_mask
from tests.support.images import A, B, captions, encoded, gradient, listing, picture, write

FILE = MaskConfig("file")


def white(size: tuple[int, int] = (12, 8)) -> bytes:
    return encoded(Image.new("L", size, 255))


def test_a_mask_lies_beside_its_image_and_is_no_image_itself(tmp_path: Path) -> None:
    files = {"a.jpg": picture(kind="JPEG"), "a.txt": "x", "d/b.png": picture(), "d/b.txt": "y"}
    files |= {"a-masklabel.png": white(), "d/b-masklabel.webp": encoded(Image.new("L", (12, 8), 9), "WEBP")}
    manifest = read_manifest(write(tmp_path, files), mask=FILE)
    assert captions(manifest) == {"a.jpg": ("x",), "d/b.png": ("y",)}
    assert [r.mask and r.mask.file_name for r in manifest.records] == ["a-masklabel.png", "d/b-masklabel.webp"]
    assert manifest.warnings == ()


def test_masks_have_the_names_of_their_images_in_a_folder_of_their_own(tmp_path: Path) -> None:
    folder = write(tmp_path, {"cat/a.jpg": picture(kind="JPEG"), "masks/cat/a.png": white()})
    manifest = read_manifest(folder, captions="folder", mask=MaskConfig("file", folder=tmp_path / "masks"))
    assert captions(manifest) == {"cat/a.jpg": ("cat",)}
    assert [r.mask and r.mask.file_name for r in manifest.records] == ["cat/a.png"]


def test_masks_that_are_not_asked_for_are_counted_and_no_images(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, {"a.png": picture(), "a.txt": "x", "a-masklabel.png": white()}))
    assert captions(manifest) == {"a.png": ("x",)} and manifest.records[0].mask is None
    assert "masks that are not used because mask.kind is none (1): a-masklabel.png" in manifest.warnings


def test_an_image_whose_name_only_looks_like_a_masks_is_an_image(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a-masklabel.png": picture(), "a-masklabel.txt": "x"})
    assert captions(read_manifest(folder)) == {"a-masklabel.png": ("x",)}


def test_a_mask_without_an_image_is_never_trained_on_and_likely_masks_are_named(tmp_path: Path) -> None:
    files = {"a.png": picture(), "a_mask.png": white(), "b-masklabel.png": white()}
    manifest = read_manifest(write(tmp_path, files), captions="none")
    assert [record.file_name for record in manifest.records] == ["a.png", "a_mask.png"]
    assert "(1): b-masklabel.png" in manifest.warnings[0] + manifest.warnings[1]
    assert any("(1): a_mask.png" in line and "-masklabel" in line for line in manifest.warnings)


def test_an_image_without_a_mask_among_others_is_counted_and_trained_on_as_a_whole(tmp_path: Path) -> None:
    files = {"metadata.jsonl": listing(A, B), "a.png": picture(), "b.png": picture("blue"), "a-masklabel.png": white()}
    manifest = read_manifest(write(tmp_path, files), mask=FILE)
    assert [record.mask is None for record in manifest.records] == [False, True]
    assert "images without a mask, which are trained on as a whole (1): b.png" in manifest.warnings
    assert manifest.masks is not None
    masks = LatentMasks("file", manifest.masks, 4)
    assert torch.equal(masks.read(manifest.records[1], View(16, 8, 0.5, 0.5, False)), torch.ones(1, 2, 4))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (white((8, 12)), "another size than their image"),
        (white((24, 16)), "24x16, expected 12x8"),
        (encoded(Image.new("L", (12, 8), 0)), "black everywhere"),
        (b"not an image", "cannot be read"),
    ],
)
def test_unusable_masks_are_refused_by_name(tmp_path: Path, mask: bytes, words: str) -> None:
    folder = write(tmp_path, {"a.png": picture(), "a.txt": "x", "a-masklabel.png": mask})
    with pytest.raises(ValueError, match=words) as caught:
        read_manifest(folder, mask=FILE)
    assert "a-masklabel.png" in str(caught.value)


def test_no_mask_at_all_two_for_one_image_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.png": picture(), "a.txt": "x"})
    with pytest.raises(ValueError, match=r"expected NAME-masklabel\.png beside"):
        read_manifest(folder, mask=FILE)
    with pytest.raises(ValueError, match="expected images with an alpha channel"):
        read_manifest(folder, mask=MaskConfig("alpha"))
    with pytest.raises(FileNotFoundError, match=r"mask\.folder: there is no folder"):
        read_manifest(folder, mask=MaskConfig("file", folder=tmp_path / "nothing"))
    write(tmp_path, {"a-masklabel.png": white(), "a-masklabel.bmp": encoded(Image.new("L", (12, 8), 255), "BMP")})
    with pytest.raises(ValueError, match="exist twice"):
        read_manifest(folder, mask=FILE)


def test_a_changed_mask_is_a_changed_image_and_no_mask_leaves_the_digest_as_it_was(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.png": picture(), "a.txt": "x", "a-masklabel.png": white()})
    plain, before = read_manifest(folder).digests(), read_manifest(folder, mask=FILE).digests()
    half = Image.new("L", (12, 8), 255)
    half.paste(0, (0, 0, 6, 8))
    write(tmp_path, {"a-masklabel.png": encoded(half)})
    manifest = read_manifest(folder, mask=FILE)
    assert read_manifest(folder).digests() == plain
    assert manifest.changes(before).changed == ("a.png",)
    write(tmp_path, {"a-masklabel.png": white()})
    assert manifest.masks is not None
    masks, view = LatentMasks("file", manifest.masks, 2), View(12, 8, 0.5, 0.5, False)
    with pytest.raises(ValueError, match="was changed while the run was going"):
        masks.read(manifest.records[0], view)
    (tmp_path / "a-masklabel.png").unlink()
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"a-masklabel\.png was removed while the run was going\. Put it back"):
        masks.read(manifest.records[0], view)
    with pytest.raises(ValueError, match=r"a\.png was removed while the run was going\. Put it back"):
        record_pixels(manifest.source, manifest.records[0], view)


def test_transparent_parts_of_a_mask_image_are_black(tmp_path: Path) -> None:
    painted = Image.new("RGBA", (12, 8), (255, 255, 255, 0))
    painted.paste((255, 255, 255, 255), (0, 0, 6, 8))
    folder = write(tmp_path, {"a.png": picture(), "a.txt": "x", "a-masklabel.png": encoded(painted)})
    manifest = read_manifest(folder, mask=FILE)
    assert manifest.masks is not None
    read = LatentMasks("file", manifest.masks, 2).read(manifest.records[0], View(12, 8, 0.5, 0.5, False))
    assert torch.equal(read, torch.tensor([1.0] * 3 + [0.0] * 3).expand(1, 4, 6))


def test_each_latent_gets_the_share_of_its_area_inside_the_mask() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)
    shares = cut_mask(Image.fromarray(levels), 40, 24, left=0.5, top=0.5, flip=False, pixel_multiple=8)
    np.testing.assert_allclose(shares, (levels / 255).reshape(3, 8, 5, 8).mean(axis=(1, 3)), rtol=1e-5)
    flipped = cut_mask(Image.fromarray(levels), 40, 24, left=0.5, top=0.5, flip=True, pixel_multiple=8)
    np.testing.assert_array_equal(flipped, shares[:, ::-1])


def picture_that_is_its_mask(folder: Path, kind: str, size: tuple[int, int], orientation: int) -> Manifest:
    """A grey ramp as image and mask, both turned by EXIF."""
    grey = gradient(*size).convert("L")
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "alpha":
        image = Image.merge("LA", (Image.new("L", size, 0), grey))  # on white: one minus the mask
        write(folder, {"a.png": encoded(image, exif=exif), "a.txt": "x"})
        return read_manifest(str(folder), mask=MaskConfig("alpha"))
    data = encoded(grey.convert("RGB"), exif=exif)
    write(folder, {"a.png": data, "a.txt": "x", "a-masklabel.png": encoded(grey, exif=exif)})
    return read_manifest(str(folder), mask=FILE)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(150, 70), (60, 130)])
@pytest.mark.parametrize("kind", ["alpha", "file"])
def test_masks_follow_bucket_crop_and_flip(tmp_path: Path, kind: str, size: tuple[int, int], orientation: int) -> None:
    manifest = picture_that_is_its_mask(tmp_path, kind, size, orientation)
    assert kind in ("alpha", "file") and manifest.masks is not None
    record = manifest.records[0]
    data = DataConfig("x", resolution=64, bucket_step=16, max_aspect=1, crop="random", flip=True)
    (bucket,) = assign_buckets(manifest.records, data)
    masks = LatentMasks(kind, manifest.masks, 8)
    chosen = views(record, bucket, data)
    assert len(chosen) == 8 and len({masks.key(record, view) for view in chosen}) == 8
    for view in chosen:
        seen = (record_pixels(manifest.source, record, view)[:1] + 1) / 2
        shares = torch.nn.functional.avg_pool2d(1 - seen if kind == "alpha" else seen, 8)
        wrong = masks.read(record, View(view.width, view.height, 1 - view.left, 1 - view.top, not view.flip))
        assert (masks.read(record, view) - shares).abs().max() < 0.02
        assert (wrong - shares).abs().max() > 0.1


def test_condition_images_are_left_out_and_named(tmp_path: Path) -> None:
    files = {"a.jpg": picture(kind="JPEG"), "a-condlabel.png": picture("blue"), "b-condlabel.png": picture("green")}
    manifest = read_manifest(write(tmp_path, {**files, "a.txt": "x", "b-condlabel.txt": "y"}))
    assert captions(manifest) == {"a.jpg": ("x",), "b-condlabel.png": ("y",)}
    (warning,) = manifest.warnings
    assert "condition images of OneTrainer" in warning and "(1): a-condlabel.png" in warning
