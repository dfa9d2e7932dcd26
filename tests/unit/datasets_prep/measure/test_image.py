import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from datasets_prep.config import PrepConfig, QualityConfig, WriteConfig
from datasets_prep.measure.columns import read_measured
from datasets_prep.measure.figures import border, jpeg_quality
from datasets_prep.measure.image import SCORES, Look, measure
from datasets_prep.measure.quality import all_flags, unusable
from datasets_prep.measure.store import Store, as_keys, write_part
from datasets_prep.pipeline import prepare
from datasets_prep.records import Measured, Rejected
from finetune.data.images.decode import open_rgb
from finetune.data.visible_files import FolderSource
from tests.support.images import SHARED, drawn, encoded, write
from tests.support.odd_images import OneFile
from tests.unit.data.images.test_tiff import ramp, tiff

LOOK = Look(max_pixels=10**8, max_side=32768, max_bytes=10**9, background="white")


def look_at(data: bytes, look: Look = LOOK) -> Measured:
    result = measure(OneFile(data), look, "a")  # type: ignore[arg-type]
    assert isinstance(result, Measured), result
    return result


def texture(side: int = 512) -> Image.Image:
    """Noise of all frequencies, as natural images have it."""
    rng = np.random.default_rng(0)
    layers = [
        np.asarray(Image.fromarray(rng.normal(0, 1, (size, size))).resize((side, side), Image.Resampling.BICUBIC))
        * weight
        for size, weight in ((8, 60), (32, 30), (128, 16), (512, 8))
    ]
    return Image.fromarray(np.clip(128 + sum(layers), 0, 255).astype(np.uint8)).convert("RGB")


def test_a_large_photograph_is_measured_at_a_fraction_of_its_size() -> None:
    picture = look_at(encoded(texture().resize((3000, 2000)), "JPEG", quality=85))
    assert (picture.width, picture.height, picture.suffix) == (3000, 2000, ".jpg")
    assert set(picture.scores) == set(SCORES)
    assert picture.codes.shape == (12, 4) and picture.codes.dtype == np.uint64


def test_equal_pixels_have_equal_hashes_whatever_the_format_and_others_do_not() -> None:
    image = drawn(3, (300, 200))
    png, webp = look_at(encoded(image)), look_at(encoded(image, "WEBP", lossless=True))
    assert png.pixels_sha256 == webp.pixels_sha256 and png.sha256 != webp.sha256
    assert look_at(encoded(drawn(4, (300, 200)))).pixels_sha256 != png.pixels_sha256
    assert look_at(encoded(image.resize((301, 200)))).pixels_sha256 != png.pixels_sha256


def test_blur_takes_detail_and_enlarging_ends_the_spectrum() -> None:
    image = texture()
    sharp = look_at(encoded(image)).scores
    blurred = look_at(encoded(image.filter(ImageFilter.GaussianBlur(2)))).scores
    enlarged = look_at(encoded(image.resize((128, 128), Image.Resampling.LANCZOS).resize(image.size))).scores
    assert sharp["detail"] > 0.5 > 0.42 > blurred["detail"] > 0
    assert sharp["spectrum"] > 0.9 and enlarged["spectrum"] < 0.56


def test_blocks_are_seen_in_whatever_format_and_quality_in_jpegs() -> None:
    saved = encoded(texture(), "JPEG", quality=10)
    again = look_at(encoded(open_rgb(saved)))
    assert again.scores["blocks"] > 1.45 > look_at(encoded(texture())).scores["blocks"]
    assert again.scores["jpeg_quality"] == 100
    assert look_at(saved).scores["jpeg_quality"] == pytest.approx(10, abs=5)


@pytest.mark.parametrize("quality", [15, 25, 50, 75, 92])  # below, tables reach their limit
def test_the_quality_of_a_jpeg_is_told_by_its_tables(quality: int) -> None:
    header = Image.open(io.BytesIO(encoded(texture(64), "JPEG", quality=quality)))
    assert jpeg_quality(header) == pytest.approx(quality, abs=4)


def test_bars_are_borders_and_the_ground_of_a_drawing_is_none() -> None:
    photograph = texture().convert("L")
    assert border(np.asarray(ImageOps.expand(photograph, (0, 64), 0))) == pytest.approx(64 / 640, abs=0.01)
    assert border(np.asarray(photograph)) == 0
    drawing = Image.new("L", (200, 200), 255)
    disc = Image.radial_gradient("L").resize((60, 60)).point(lambda v: 255 if v < 110 else 0)
    drawing.paste(photograph.resize((60, 60)), (70, 70), disc)
    assert border(np.asarray(drawing)) == 0


def test_animations_transparency_and_bad_profiles_are_noted() -> None:
    frames = [drawn(seed) for seed in range(3)]
    animated = look_at(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert animated.scores["frames"] == 3 and "first frame" in animated.notes[0]
    clear = frames[0].convert("RGBA")
    clear.putalpha(100)
    assert "transparency" in look_at(encoded(clear)).notes[0]
    assert "profiles" in look_at(encoded(frames[0], "JPEG", icc_profile=b"nonsense")).notes[0]
    assert look_at(encoded(frames[0])).notes == ()
    for mode in ("RGBA", "LA"):  # an alpha channel that hides nothing
        assert look_at(encoded(frames[0].convert(mode))).notes == ()


def test_the_background_shows_through_and_changes_the_pixels() -> None:
    clear = drawn(1).convert("RGBA")
    clear.putalpha(40)
    white, black = look_at(encoded(clear)), look_at(encoded(clear), replace(LOOK, background="black"))
    assert white.scores["brightness"] > 200 > 60 > black.scores["brightness"]
    assert white.pixels_sha256 != black.pixels_sha256 and white.sha256 == black.sha256


@pytest.mark.parametrize(
    ("data", "look", "reason"),
    [
        (b"", LOOK, "empty_file"),
        (b"words", LOOK, "not_an_image"),
        (encoded(drawn(0))[:-40], LOOK, "truncated"),
        (encoded(drawn(0)), replace(LOOK, max_pixels=1000), "too_many_pixels"),
        (encoded(drawn(0)), replace(LOOK, max_side=90), "too_many_pixels"),
        (encoded(drawn(0)), replace(LOOK, max_bytes=100), "too_large"),
    ],
)
def test_what_is_not_a_usable_image_has_a_reason(data: bytes, look: Look, reason: str) -> None:
    result = measure(OneFile(data), look, "a")  # type: ignore[arg-type]
    assert isinstance(result, Rejected) and result.reason == reason and result.detail


def test_a_file_that_is_gone_is_unreadable(tmp_path: Path) -> None:
    result = measure(FolderSource(str(tmp_path)), LOOK, "gone")  # type: ignore[arg-type]
    assert isinstance(result, Rejected) and result.reason == "unreadable"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")
def test_good_photographs_get_no_flags(tmp_path: Path) -> None:
    paths = sorted((SHARED / "photos").glob("*/*.jpg"))[::4]
    results = [measure(OneFile(path.read_bytes()), LOOK, "a") for path in paths]  # type: ignore[arg-type]
    keys = [bytes([number] * 16) for number in range(len(paths))]
    write_part(tmp_path, list(zip(keys, results, strict=True)))
    store = Store(tmp_path)
    pictures = read_measured(store.parts, store.places(as_keys(keys)), [path.name for path in paths])
    assert unusable(pictures, QualityConfig()) == {}
    flagged = {name: int(having.sum()) for name, having in all_flags(pictures, QualityConfig()).items() if having.any()}
    assert sum(flagged.values()) <= 1, flagged


def test_white_lines_on_transparency_are_told_of_the_background(tmp_path: Path) -> None:
    lines = Image.new("RGBA", (200, 200), (255, 255, 255, 0))
    for left in range(20, 200, 40):
        lines.paste((255, 255, 255, 255), (left, 0, left + 10, 200))
    config = PrepConfig((write(tmp_path / "raw", {"lines.png": encoded(lines)}),), tmp_path / "out", workers=1)
    with pytest.raises(ValueError, match=r"low_information 1.*--background"):
        prepare(config)
    assert any("--write.reencode" in notice for notice in prepare(replace(config, background="black")).notices)
    kept = prepare(replace(config, background="black", write=WriteConfig(reencode="png")))
    assert kept.num_pictures == 1 and not any("--write.reencode" in notice for notice in kept.notices)


def test_an_intact_tiff_that_is_not_read_is_called_unsupported() -> None:
    result = measure(OneFile(tiff(ramp(3, "f4")[0], 2)), LOOK, "a")  # type: ignore[arg-type]
    assert isinstance(result, Rejected) and result.reason == "unsupported_format" and "Save it" in result.detail
