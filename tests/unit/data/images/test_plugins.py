import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.images import decode as images
from finetune.data.images.decode import UPRIGHT, open_header, open_rgb, readable_formats, upright_size
from finetune.data.images.jpeg_xl import read_jpeg_xl_header
from finetune.data.manifest import read_manifest
from tests.support.images import encoded, gradient, write

HEIC_START = b"\0\0\0\x18ftypheic" + bytes(100)
JXL_START = b"\xff\x0a\x09\x0e\x88\x80\x48\x08" + bytes(100)

needs_heif = pytest.mark.skipif("HEIF" not in readable_formats(), reason="needs pillow-heif: sd-finetune[heic]")
needs_jxl = pytest.mark.skipif("JXL" not in readable_formats(), reason="needs pillow-jxl-plugin: sd-finetune[jxl]")


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[images.ORIENTATION_TAG] = orientation
    return block.tobytes()


def turned(image: Image.Image, orientation: int) -> np.ndarray:
    return np.asarray(image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image).astype(int)


def turned_jpeg_xl(orientation: int) -> bytes:
    """A JPEG XL with an orientation, which the plugin cannot write.

    Of its header of 4 bytes, 14 bits are the size; then come the bits "all_default" and "extra_fields". With the latter
    set, the orientation, three more bits, and later one that stands for the usual tone mapping are put in.
    """
    data = encoded(gradient(), "JXL", lossless=True, use_container=False)
    bits = int.from_bytes(data[2:6], "little")
    assert bits >> 14 & 3 == 0
    bits = bits & 0x3FFF | 1 << 15 | (orientation - 1) << 16 | bits >> 16 << 22
    bits = bits & (1 << 29) - 1 | 1 << 29 | bits >> 29 << 30
    return data[:2] + bits.to_bytes(5, "little") + data[6:]


@needs_heif
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_once(orientation: int) -> None:
    data = encoded(gradient(), "HEIF", quality=95, exif=exif(orientation))
    wanted = turned(gradient(), orientation)
    assert upright_size(data) == wanted.shape[1::-1]
    for picture in (open_rgb(data), open_rgb(data, draft=(8, 8))):
        assert np.abs(np.asarray(picture) - wanted).mean() < 4


@needs_heif
def test_of_several_images_in_a_heic_the_primary_one_counts() -> None:
    others = [Image.new("RGB", (70, 30), "red"), Image.new("RGB", (90, 50), "blue")]
    data = encoded(gradient(), "HEIF", save_all=True, append_images=others, primary_index=2)
    assert upright_size(data) == (90, 50)
    assert np.abs(np.asarray(open_rgb(data)).astype(int) - (0, 0, 255)).mean() < 4


@needs_heif
def test_a_heic_cut_short_or_damaged_is_refused() -> None:
    data = encoded(gradient(640, 400), "HEIF")
    for length in (20, 200, len(data) // 2, len(data) - 2):
        with pytest.raises(ValueError, match="cut short"):
            open_rgb(data[:length])


@needs_jxl
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_xl_is_turned_once(orientation: int) -> None:
    data = turned_jpeg_xl(orientation)
    wanted = turned(gradient(), orientation)
    assert read_jpeg_xl_header(data).orientation == orientation
    assert upright_size(data) == wanted.shape[1::-1]
    assert np.array_equal(np.asarray(open_rgb(data)), wanted)
    told_twice = encoded(gradient(), "JXL", lossless=True, exif=exif(orientation))  # EXIF does not count in JPEG XL
    assert upright_size(told_twice) == open_rgb(told_twice).size == (64, 40)


@needs_jxl
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_that_was_packed_as_jpeg_xl_looks_as_before(tmp_path: Path, orientation: int) -> None:
    jpeg = encoded(gradient(), "JPEG", quality=95, subsampling=0, exif=exif(orientation))
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg)
    data = encoded(Image.open(path), "JXL", lossless_jpeg=True)
    assert read_jpeg_xl_header(data).is_jpeg
    assert upright_size(data) == upright_size(jpeg)
    assert np.abs(np.asarray(open_rgb(data)).astype(int) - np.asarray(open_rgb(jpeg))).max() <= 2


@needs_jxl
@pytest.mark.parametrize("size", [(1, 1), (256, 256), (8, 264), (1000, 3), (960, 540), (1200, 800), (17_000, 5)])
@pytest.mark.parametrize("is_boxed", [False, True])
def test_the_header_of_a_jpeg_xl_tells_its_size(size: tuple[int, int], is_boxed: bool) -> None:
    header = read_jpeg_xl_header(encoded(Image.new("RGB", size), "JXL", lossless=True, use_container=is_boxed))
    assert (header.width, header.height, header.orientation, header.is_jpeg) == (*size, 1, False)


@needs_jxl
def test_a_jpeg_xl_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    bits = 0b10 << 1 | 59_999 << 3 | 0 << 21 | 0b10 << 24 | 59_999 << 26  # both sides: 18 bits hold 60,000 less 1
    bomb = b"\xff\x0a" + bits.to_bytes(8, "little") + bytes(100)
    for read in (upright_size, open_rgb, open_header):
        with pytest.raises(ValueError, match="too many pixels: 60000 x 60000"):
            read(bomb)


@needs_jxl
@pytest.mark.parametrize("is_boxed", [False, True])
def test_a_jpeg_xl_cut_short_is_refused(is_boxed: bool) -> None:
    data = encoded(gradient(300, 200), "JXL", use_container=is_boxed)
    for length in (*range(2 if not is_boxed else 12, 60, 3), len(data) // 2):
        with pytest.raises(ValueError, match="cut short"):
            open_rgb(data[:length])


@pytest.mark.parametrize(("kind", "lossless"), [("HEIF", {}), ("JXL", {"lossless": True})])
def test_alpha_is_on_the_background(kind: str, lossless: dict[str, object]) -> None:
    if kind not in readable_formats():
        pytest.skip(f"needs {images.PLUGINS[kind][0]}: sd-finetune[{images.PLUGINS[kind][1]}]")
    data = encoded(Image.new("RGBA", (64, 64), (255, 0, 0, 0)), kind, **lossless)
    assert np.abs(np.asarray(open_rgb(data, background=(0, 0, 255))).astype(int) - (0, 0, 255)).max() <= 3


@pytest.mark.parametrize(("name", "kind"), [("A.HEIC", "HEIF"), ("a.jxl", "JXL")])
def test_a_folder_lists_them(tmp_path: Path, name: str, kind: str) -> None:
    if kind not in readable_formats():
        pytest.skip(f"needs {images.PLUGINS[kind][0]}: sd-finetune[{images.PLUGINS[kind][1]}]")
    folder = write(tmp_path, {name: encoded(gradient(), kind), f"{Path(name).stem}.txt": "x"})
    manifest = read_manifest(folder)
    assert [(r.file_name, r.width, r.height) for r in manifest.records] == [(name, 64, 40)] and not manifest.warnings


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caches = (images.readable_formats, images._plugin_is_there)
    for module, _ in images.PLUGINS.values():
        monkeypatch.setitem(sys.modules, module, None)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("no_plugins")
@pytest.mark.parametrize(("data", "extra"), [(HEIC_START, "HEIC.*pillow-heif"), (JXL_START, "JPEG XL.*pillow-jxl")])
def test_without_the_plugin_the_reason_says_what_to_install(data: bytes, extra: str) -> None:
    for read in (open_rgb, upright_size):
        with pytest.raises(ValueError, match=extra):
            read(data)


@pytest.mark.usefixtures("no_plugins")
def test_without_the_plugin_a_folder_says_what_to_install(tmp_path: Path) -> None:
    files = {"a.png": encoded(gradient()), "a.txt": "x", "b.heic": HEIC_START, "c.jxl": JXL_START, "d.psd": b"x"}
    warnings = "\n".join(read_manifest(write(tmp_path, files)).warnings)
    assert "pip install 'pillow-heif" in warnings and "pip install 'pillow-jxl" in warnings and "d.psd" in warnings


def test_bytes_that_only_begin_like_them_are_refused() -> None:
    starts = (HEIC_START, JXL_START, b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50))
    for data in starts:
        with pytest.raises(ValueError):
            open_rgb(data)
