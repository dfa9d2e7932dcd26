import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from finetune.data.images import decode as images
from finetune.data.images.decode import cover_scale, crop_loss, open_rgb, resize_and_crop, upright_size
from tests.support.images import SHARED, encoded, gradient, png, png_block
from tests.support.odd_images import read_all

STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
}
STORED |= {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE}
STORED |= {8: Image.Transpose.ROTATE_270}
"""EXIF orientation -> how an upright image is stored."""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    upright = gradient()
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[images.ORIENTATION_TAG] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95}}
    data = encoded(upright if turn is None else upright.transpose(turn), kind, exif=exif, **options.get(kind, {}))
    assert upright_size(data) == upright.size
    picture = open_rgb(data)
    assert picture.size == upright.size
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(upright)).mean() < 3
    assert picture.getexif().get(images.ORIENTATION_TAG, 1) == 1 or orientation == 1


def test_an_orientation_behind_the_pixels_of_a_png_counts_in_the_header_too() -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION_TAG] = 6
    data = png(2, 1, 8, 0, b"\0\x05\x06", after=png_block(b"eXIf", exif.tobytes()[6:]))
    assert upright_size(data) == open_rgb(data).size == (1, 2)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_is_read_as_upright(exif: bytes) -> None:
    data = encoded(gradient(), "JPEG", exif=exif)
    assert upright_size(data) == open_rgb(data).size == (64, 40)


def test_mpo_from_a_phone_counts_as_jpeg() -> None:
    data = encoded(gradient(), "MPO", save_all=True, append_images=[gradient()])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert upright_size(data) == (64, 40)
    assert open_rgb(data, draft=(16, 10)).size == (16, 10)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("asked", [(64, 40), (50, 50), (150, 20), (640, 400), (900, 20)])
def test_a_drafted_jpeg_is_smaller_but_never_below_the_asked_size(asked: tuple[int, int], orientation: int) -> None:
    stored = gradient(640, 400)
    exif = Image.Exif()
    exif[images.ORIENTATION_TAG] = orientation
    data = encoded(stored, "JPEG", exif=exif)
    full = upright_size(data)
    size = open_rgb(data, draft=asked).size
    assert all(found >= min(wanted, whole) for found, wanted, whole in zip(size, asked, full, strict=True))
    if max(asked) < 128:
        assert size[0] < full[0]


ENCODINGS = [
    *["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"],
    *["JPEG progressive", "WEBP lossless", "TIFF tiff_lzw", "TIFF jpeg"],
]


def noisy(kind: str) -> bytes:
    """An image that does not compress, for cutting it in half."""
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    name, _, option = kind.partition(" ")
    named = {"compression": option} if name == "TIFF" and option else {option: True} if option else {}
    return encoded(Image.fromarray(noise), name, **named)


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_that_was_cut_short_is_refused(kind: str, share: float) -> None:
    data = noisy(kind)
    assert open_rgb(data).size == (128, 96)
    with pytest.raises(ValueError, match="cut short"):
        open_rgb(data[: int(len(data) * share)])


def test_a_jpeg_that_lacks_its_last_two_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="cut short"):
        open_rgb(noisy("JPEG")[:-2])


def test_any_flipped_bit_of_a_png_is_found() -> None:
    """Most flipped bits of a smooth image would still decode."""
    data = encoded(gradient(400, 300))
    for position in np.random.default_rng(1).integers(8, len(data) - 12, 100):
        damaged = bytearray(data)
        damaged[position] ^= 4
        with pytest.raises(ValueError):
            open_rgb(bytes(damaged))


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_damage_gives_an_image_or_a_value_error(kind: str) -> None:
    random = np.random.default_rng(2)
    data = noisy(kind)
    messages = []
    for _ in range(30):
        damaged = bytearray(data)
        start = int(random.integers(0, len(data)))
        damaged[start : start + 8] = random.bytes(8)
        for read in (upright_size, open_rgb):
            try:
                read(bytes(damaged))
            except ValueError as error:
                messages.append(str(error))
    assert all(messages)


@pytest.mark.filterwarnings("ignore")
def test_odd_images_of_every_format_are_read_or_refused_with_a_value_error() -> None:
    ends, escaped = read_all(300, seed=3)
    assert not escaped
    assert ends["pixels: read"] > 100 and ends["pixels: refused"] > 50


def test_a_decoder_that_panics_blames_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicError(BaseException):
        """As decoders written in Rust raise."""

    def panic(image: Image.Image) -> None:
        raise PanicError("index out of bounds")

    monkeypatch.setattr(ImageFile.ImageFile, "load", panic)
    with pytest.raises(ValueError, match="index out of bounds"):
        open_rgb(encoded(gradient()))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (bytes(4096), "zero"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\xef\xbb\xbf <?xml version='1.0'?><svg/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC|cut short"),
        (b"just some text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\xff\xd8\xff", "cut short"),
    ],
)
def test_what_is_not_an_image_is_named(data: bytes, word: str) -> None:
    for read in (upright_size, open_rgb):
        with pytest.raises(ValueError, match=word):
            read(data)


@pytest.mark.parametrize(("width", "height"), [(32_000, 32_000), (200_000, 200_000), (10_241, 10_240)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    data = png(width, height, 8, 0, bytes(1000))
    for read in (upright_size, open_rgb):
        with pytest.raises(ValueError, match="too many pixels"):
            read(data)


def test_pillows_own_limit_is_left_alone() -> None:
    assert Image.MAX_IMAGE_PIXELS == 2**30 // 12


@pytest.mark.parametrize(
    ("size", "target", "scale", "loss"),
    [
        ((200, 100), (100, 100), 1.0, 0.5),
        ((100, 100), (100, 100), 1.0, 0.0),
        ((50, 100), (100, 100), 2.0, 0.5),
        ((300, 200), (150, 50), 0.5, 0.5),
        ((768, 512), (384, 256), 0.5, 0.0),
    ],
)
def test_scale_and_crop_loss_agree_with_hand_computed_values(
    size: tuple[int, int], target: tuple[int, int], scale: float, loss: float
) -> None:
    assert cover_scale(*size, *target) == pytest.approx(scale)
    assert crop_loss(*size, *target) == pytest.approx(loss, abs=1e-12)


@pytest.mark.parametrize("size", [(64, 40), (40, 64), (97, 61), (33, 333), (20, 10), (1, 1), (3000, 2)])
@pytest.mark.parametrize("target", [(32, 32), (48, 24), (24, 40)])
@pytest.mark.parametrize("place", [0.0, 0.37, 1.0])
def test_a_crop_has_the_asked_size_whatever_the_image(
    size: tuple[int, int], target: tuple[int, int], place: float
) -> None:
    image = Image.new("RGB", size, (9, 8, 7))
    found = resize_and_crop(image, *target, left=place, top=place, flip=False)
    assert found.shape == (target[1], target[0], 3) and found.dtype == np.uint8 and found.flags.c_contiguous
    assert (found == [9, 8, 7]).all()  # a missing border pixel would be black


def test_a_crop_of_the_same_size_returns_the_pixels_unchanged() -> None:
    assert np.array_equal(resize_and_crop(gradient(), 64, 40, left=0.5, top=0.5, flip=False), np.asarray(gradient()))


def test_a_crop_without_scaling_cuts_at_the_asked_offset() -> None:
    whole = np.asarray(gradient(64, 40))
    for left, start in ((0.0, 0), (0.5, 12), (1.0, 24)):
        found = resize_and_crop(gradient(64, 40), 40, 40, left=left, top=0.0, flip=False)
        assert np.array_equal(found, whole[:, start : start + 40])


def test_a_crop_equals_resizing_the_whole_image_and_cutting() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 320, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((1280, 800), Image.Resampling.BICUBIC)
    whole = np.asarray(image.resize((320, 200), Image.Resampling.LANCZOS)).astype(int)
    found = resize_and_crop(image, 200, 200, left=0.5, top=0.5, flip=False)
    assert np.abs(found - whole[:, 60:260]).max() <= 3
    assert np.abs(found - whole[:, 60:260]).mean() < 0.1


def test_flipping_mirrors_the_same_part() -> None:
    plain = resize_and_crop(gradient(), 24, 24, left=0.2, top=0.7, flip=False)
    mirrored = resize_and_crop(gradient(), 24, 24, left=0.2, top=0.7, flip=True)
    assert np.array_equal(mirrored, plain[:, ::-1]) and mirrored.flags.c_contiguous


def test_real_photographs_open_upright_with_the_size_of_their_header() -> None:
    photos = SHARED / "photos"
    if not photos.is_dir():
        pytest.skip("needs ../shared/data/photos beside the repository")
    for path in sorted(photos.rglob("*.jpg")):
        data = path.read_bytes()
        picture = open_rgb(data)
        assert picture.mode == "RGB" and picture.size == upright_size(data), path
        small = resize_and_crop(open_rgb(data, draft=(96, 96)), 96, 96, left=0.5, top=0.5, flip=False).astype(int)
        full = resize_and_crop(picture, 96, 96, left=0.5, top=0.5, flip=False)
        assert np.abs(small - full).mean() < 4, path
