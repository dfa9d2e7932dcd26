import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from finetune.data.images.decode import open_rgb
from tests.support.images import encoded, gradient, pixels, png, png_block


def icc_profile(space: bytes, gamma: float | list[float], primaries: list[tuple[float, float, float]]) -> bytes:
    """Make a minimal ICC version 2 profile: gamma or curve, primaries. The primaries' XYZ are under D50."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    points = [round(65535 * value) for value in gamma] if isinstance(gamma, list) else [round(gamma * 256)]
    curve = b"curv" + bytes(4) + struct.pack(f">I{len(points)}H", len(points), *points)
    tags = {b"wtpt": (0.9642, 1.0, 0.8249)} | dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=False))
    bodies = {name: b"XYZ " + bytes(4) + b"".join(map(fixed, value)) for name, value in tags.items()}
    bodies |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC") if primaries else (b"kTRC",), curve)
    bodies[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1)
    offset, table, content = 128 + 4 + 12 * len(bodies), b"", b""
    for name, body in bodies.items():
        body += bytes(-len(body) % 4)
        table += name + struct.pack(">II", offset + len(content), len(body))
        content += body
    size = offset + len(content)
    white = fixed(0.9642) + fixed(1.0) + fixed(0.8249)
    header = struct.pack(">I4sI4s4s4s12s4s", size, bytes(4), 0x02100000, b"mntr", space, b"XYZ ", bytes(12), b"acsp")
    header += bytes(128 - len(header) - 60) + white + bytes(48)
    assert len(header) == 128
    return header + struct.pack(">I", len(bodies)) + table + content


ADOBE = [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]
SRGB = [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)]


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, section 5.2."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def in_srgb_of(light: np.ndarray, primaries: list[tuple[float, float, float]]) -> np.ndarray:
    """Light of an ICC profile's primaries as samples of sRGB."""
    return srgb_curve(light @ np.array(primaries) @ np.linalg.inv(np.array(SRGB)))


def chromaticities(*values: float) -> bytes:
    return png_block(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))


GAMMA_1 = png_block(b"gAMA", struct.pack(">I", 100_000))
GAMMA_22 = png_block(b"gAMA", struct.pack(">I", 45_455))
ADOBE_XY = chromaticities(0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)  # those of ADOBE
SRGB_XY = chromaticities(0.3127, 0.329, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
IS_SRGB = png_block(b"sRGB", b"\0")
P3 = [(0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)]  # Display P3 under D50
SAMPLES = np.array([[200, 100, 50], [30, 120, 200], [128, 128, 128]])
LIGHT = SAMPLES / 255
DECODED = np.where(SAMPLES / 255 <= 0.04045, SAMPLES / 255 / 12.92, ((SAMPLES / 255 + 0.055) / 1.055) ** 2.4)


def profiled(primaries: list[tuple[float, float, float]], gamma: float) -> bytes:
    return png_block(b"iCCP", b"p\0\0" + zlib.compress(icc_profile(b"RGB ", gamma, primaries)))


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (GAMMA_1, srgb_curve(LIGHT)),
        (png_block(b"gAMA", struct.pack(">I", 55_556)), srgb_curve((SAMPLES / 255) ** 1.8)),
        (GAMMA_22 + SRGB_XY, SAMPLES),
        (GAMMA_1 + ADOBE_XY, in_srgb_of(LIGHT, ADOBE)),
        (ADOBE_XY, in_srgb_of(DECODED, ADOBE)),
        (IS_SRGB + GAMMA_1 + ADOBE_XY, SAMPLES),
        (profiled(ADOBE, 1.0) + GAMMA_22, in_srgb_of(LIGHT, ADOBE)),
        (png_block(b"cICP", bytes([12, 13, 0, 1])) + profiled(ADOBE, 1.0) + GAMMA_1, in_srgb_of(DECODED, P3)),
        (png_block(b"cICP", bytes([1, 8, 0, 1])) + IS_SRGB, srgb_curve(LIGHT)),
    ],
    ids=["gamma", "gamma 1.8", "almost sRGB", "both", "primaries", "sRGB wins", "profile wins", "P3 wins", "linear"],
)
def test_a_png_is_read_as_its_highest_ranking_block_says(blocks: bytes, expected: np.ndarray) -> None:
    found = pixels(png(3, 1, 8, 2, b"\0" + SAMPLES.astype(np.uint8).tobytes(), before=blocks))
    assert np.abs(found[0] - expected).max() <= 2


def test_gamma_holds_for_grey_of_16_bits_for_palettes_and_beside_alpha() -> None:
    expected = srgb_curve(np.array([0.01, 0.5, 1.0]))
    grey = png(3, 1, 16, 0, b"\0" + struct.pack(">3H", 655, 32768, 65535), before=GAMMA_1)
    assert np.abs(pixels(grey)[0, :, 0] - expected).max() <= 1  # 8 bits would leave 0.01 at 0.008 or 0.012
    palette = GAMMA_1 + png_block(b"PLTE", bytes([128, 128, 128]))
    assert np.abs(pixels(png(1, 1, 8, 3, b"\0\0", before=palette)) - 188).max() <= 1
    with_alpha = png(1, 1, 8, 6, b"\0" + bytes([128, 128, 128, 128]), before=GAMMA_1)
    assert np.abs(pixels(with_alpha, background=(0, 0, 0)) - 188 * 128 / 255).max() <= 1


@pytest.mark.parametrize(
    "block",
    [
        png_block(b"gAMA", bytes(4)),
        chromaticities(0.3127, 0.329, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3),
        chromaticities(0, 0, 0, 0, 0, 0, 0, 0),
        png_block(b"cICP", bytes([9, 16, 0, 1])),
    ],
    ids=["gamma 0", "one point", "zeros", "PQ"],
)
def test_a_pngs_colours_that_cannot_be_followed_are_reported(block: bytes) -> None:
    found = open_rgb(png(3, 1, 8, 2, b"\0" + SAMPLES.astype(np.uint8).tobytes(), before=block))
    assert np.array_equal(np.asarray(found)[0], SAMPLES)
    assert "read as sRGB" in found.info["colour_warning"]


def test_floats_that_reach_a_little_beyond_1_are_not_taken_for_8_bits() -> None:
    with pytest.raises(ValueError, match=r"^unsupported.*3\.7.*Save it as PNG"):
        open_rgb(encoded(Image.fromarray(np.array([[0.0, 0.5, 3.7]], dtype=np.float32)), "TIFF"))


def test_what_transparency_leaves_of_one_colour_is_reported() -> None:
    lines = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    lines.paste((255, 255, 255, 255), (2, 0, 3, 8))
    assert "blank_warning" in open_rgb(encoded(lines)).info
    assert open_rgb(encoded(lines), background=(0, 0, 0)).info == {"is_transparent": True}


def test_sixteen_bit_grey_keeps_its_gradient() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    found = pixels(encoded(Image.fromarray(np.tile(ramp, (4, 1)))))
    assert np.abs(found - np.linspace(0, 255, 256)[None, :, None]).max() <= 1


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bit_tiff_of_either_byte_order_is_scaled(mode: str) -> None:
    dtype = ">u2" if mode == "I;16B" else "<u2"
    data = np.tile(np.linspace(0, 65535, 32), (8, 1)).astype(dtype)
    image = Image.frombytes(mode, (32, 8), data.tobytes())
    found = pixels(encoded(image, "TIFF"))
    assert np.abs(found - np.linspace(0, 255, 32)[None, :, None]).max() <= 1


def test_sixteen_bit_colour_png_is_scaled() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 32768, 0, 0, 65535, 32768) for _ in range(2))
    assert np.abs(pixels(png(2, 2, 16, 2, rows))[0] - [[255, 127.5, 0], [0, 255, 127.5]]).max() <= 1


def test_sixteen_bit_pgm_is_scaled() -> None:
    data = b"P5 3 1 65535\n" + struct.pack(">3H", 0, 32768, 65535)
    assert pixels(data)[0, :, 0].tolist() == [0, 128, 255]


def test_float_tiff_is_scaled_from_the_range_it_is_stored_in() -> None:
    known = {(0.0, 0.5, 1.0): [0, 128, 255], (0.0, 100.0, 255.0): [0, 100, 255], (-1.0, 0.0, 1.0): [0, 128, 255]}
    known |= {(0.0, 32767.5, 65535.0): [0, 128, 255], (-5.0, -5.0, -5.0): [0, 0, 0]}
    for values, expected in known.items():
        data = encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
        assert pixels(data)[0, :, 1].tolist() == expected, values


def test_float_tiff_with_a_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        open_rgb(encoded(Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)), "TIFF"))


def test_large_integers_are_scaled_from_least_to_greatest() -> None:
    data = encoded(Image.fromarray(np.array([[0, 500_000, 1_000_000]], dtype=np.int32)), "TIFF")
    assert pixels(data)[0, :, 0].tolist() == [0, 128, 255]


def test_scaling_in_strips_reaches_every_row() -> None:
    values = np.arange(600, dtype=np.uint16)[:, None].repeat(3, axis=1) * 100
    expected = np.rint(values[:, 0] / 65535 * 255)
    assert np.array_equal(pixels(encoded(Image.fromarray(values)))[:, 1, 0], expected)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_shows_its_colours(kind: str) -> None:
    """JPEG stores CMYK inverted, as Adobe does; TIFF does not."""
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind)
    assert np.abs(pixels(data) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_opaque_modes_keep_their_pixels(mode: str) -> None:
    image = gradient().convert(mode)
    assert np.array_equal(pixels(encoded(image)), np.asarray(image.convert("RGB")))


def test_lab_tiff_is_converted() -> None:
    found = pixels(encoded(Image.new("LAB", (4, 4), (128, 128, 128)), "TIFF"))  # 128 is neutral in a* and b*
    assert np.abs(found - 119).max() <= 3  # L* of 50 is sRGB 119


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(pixels(data) - [255, 0, 0]).max() <= 2, kind


def hidden(mode: str) -> bytes:
    """A green left half, and a transparent right half."""
    if mode == "palette bytes" or mode == "palette index":
        image = Image.new("P", (4, 2))
        image.putpalette([0, 255, 0, 255, 0, 0])
        image.paste(1, (2, 0, 4, 2))
        return encoded(image, transparency=b"\xff\x00" if mode == "palette bytes" else 1)
    if mode == "RGB key":
        image = Image.new("RGB", (4, 2), (0, 255, 0))
        image.paste((255, 0, 0), (2, 0, 4, 2))
        return encoded(image, transparency=(255, 0, 0))
    image = Image.new("RGBA", (4, 2), (0, 255, 0, 255))
    image.paste((255, 0, 0, 0), (2, 0, 4, 2))
    return encoded(image, mode, lossless=True)


@pytest.mark.parametrize("mode", ["PNG", "WEBP", "TIFF", "palette bytes", "palette index", "RGB key"])
def test_hidden_pixels_do_not_show(mode: str) -> None:
    found = pixels(hidden(mode), background=(10, 20, 30))
    assert np.array_equal(found[0], [[0, 255, 0]] * 2 + [[10, 20, 30]] * 2)


@pytest.mark.parametrize(("depth", "key"), [(8, 5), (16, 300), (1, 1)])
def test_a_transparent_grey_level_does_not_show(depth: int, key: int) -> None:
    samples = {8: bytes([5, 0]), 16: struct.pack(">2H", 300, 0), 1: bytes([0b10000000])}[depth]
    data = png(2, 1, depth, 0, b"\0" + samples, before=png_block(b"tRNS", struct.pack(">H", key)))
    assert pixels(data, background=(255, 0, 0))[0].tolist() == [[255, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_half_transparent_pixels_are_mixed_with_the_background(mode: str) -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 128)).convert(mode)
    assert np.abs(pixels(encoded(image)) - 127).max() <= 1


def test_a_wide_gamut_profile_is_converted_to_srgb() -> None:
    image = Image.fromarray(np.tile(SAMPLES.astype(np.uint8), (4, 1, 1)))
    expected = in_srgb_of((SAMPLES / 255) ** (563 / 256), ADOBE)
    found = pixels(encoded(image, icc_profile=icc_profile(b"RGB ", 563 / 256, ADOBE)))
    assert np.abs(found[0] - expected).max() <= 2
    assert np.abs(expected - SAMPLES).max() > 10


def test_alpha_survives_a_profile() -> None:
    image = Image.new("RGBA", (2, 2), (200, 100, 50, 0))
    found = pixels(encoded(image, icc_profile=icc_profile(b"RGB ", 2.2, ADOBE)), background=(1, 2, 3))
    assert np.array_equal(found[0, 0], [1, 2, 3])


def test_an_srgb_profile_changes_no_pixel_even_where_its_numbers_are_rounded() -> None:
    exact = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    code = np.linspace(0, 1, 1024)
    curve = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    rounded = icc_profile(b"RGB ", curve.tolist(), SRGB)
    for profile in (exact, rounded):
        assert np.array_equal(pixels(encoded(gradient(), icc_profile=profile)), np.asarray(gradient()))


@pytest.mark.parametrize("profile", [icc_profile(b"GRAY", 1.0, []), icc_profile(b"RGB ", 1.0, SRGB)])
def test_a_grey_image_follows_a_grey_and_a_colour_profile(profile: bytes) -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 15, dtype=np.uint8), (2, 1)))
    found = pixels(encoded(ramp, icc_profile=profile))
    assert np.abs(found[0, :, 0] - srgb_curve(np.arange(0, 256, 15) / 255)).max() <= 2


@pytest.mark.parametrize("profile", [b"not a profile", icc_profile(b"CMYK", 2.2, ADOBE), icc_profile(b"GRAY", 1.0, [])])
def test_an_unusable_profile_is_ignored_and_reported(profile: bytes) -> None:
    picture = open_rgb(encoded(gradient(), icc_profile=profile))
    assert np.array_equal(np.asarray(picture), np.asarray(gradient()))
    assert "profile" in picture.info["colour_warning"]


def test_a_usable_image_reports_nothing() -> None:
    assert open_rgb(encoded(gradient())).info == {}
