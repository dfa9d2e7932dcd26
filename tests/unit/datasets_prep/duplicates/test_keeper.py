import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from datasets_prep.duplicates.compression import quality_of
from datasets_prep.duplicates.consensus import Consensus, shared_information
from datasets_prep.duplicates.facts import WHOLE, Details, common_parts, common_sides
from datasets_prep.duplicates.frames import frame_of, may_be_framed
from datasets_prep.duplicates.keeper import Member, best_member, with_best_keepers
from datasets_prep.duplicates.made import Made
from datasets_prep.duplicates.pairs import made_of, pair_figures
from datasets_prep.records import Duplicate
from finetune.similarity.appearance import can_verify, look_at

LANCZOS, MIRROR = Image.Resampling.LANCZOS, Image.Transpose.FLIP_LEFT_RIGHT


@functools.cache
def scene(side: int = 240) -> Image.Image:
    """A colour image whose detail, down to pixels, falls as in photographs."""
    chance = np.random.default_rng(3)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    channels = []
    for _ in range(3):
        phases = np.exp(2j * np.pi * chance.random(frequency.shape))
        levels = np.fft.irfft2(phases / frequency, (side, side))
        channels.append(128 + 40 * (levels - levels.mean()) / levels.std())
    return Image.fromarray(np.clip(np.stack(channels, 2), 0, 255).astype(np.uint8))


def on_canvas(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (image.width * 3 // 2, image.height * 3 // 2), (128, 128, 128))
    canvas.paste(image, (image.width // 4, image.height // 4))
    return canvas


def kept(images: list[Image.Image], qualities: list[float] | None = None, captioned: tuple[int, ...] = ()) -> int:
    """Return the number of the kept image. Larger ones come first in the usual order."""
    order = sorted(range(len(images)), key=lambda number: -images[number].width * images[number].height)
    members = [
        Member(number, order.index(number), (qualities or [90.0] * len(images))[number], number in captioned)
        for number in range(len(images))
    ]
    return best_member(members, Details(lambda number: images[number], {})).number


def vignette(image: Image.Image) -> Image.Image:
    down, across = np.meshgrid(np.linspace(-1, 1, image.height), np.linspace(-1, 1, image.width), indexing="ij")
    return Image.fromarray((np.asarray(image) * (1 - 0.4 * (down**2 + across**2))[..., None]).astype(np.uint8))


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(5).normal(0, 12, np.asarray(image).shape)
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def with_text(image: Image.Image) -> Image.Image:
    marked = image.copy()
    for top in (0.05, 0.75):
        place = image.width * 0.1, image.height * top
        ImageDraw.Draw(marked).text(
            place, "SOME WORDS", "white", font_size=image.width // 8, stroke_width=2, stroke_fill="black"
        )
    return marked


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
    "median": lambda image: image.filter(ImageFilter.MedianFilter(3)),
    "sharpened": lambda image: image.filter(ImageFilter.UnsharpMask(2, 120)),
    "noise": noisy,
    "text": with_text,
    "vignette": vignette,
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_filtered_or_drawn_over_image_never_wins_over_what_it_was_made_of(edit: str) -> None:
    original = scene()
    edited = EDITS[edit](original)
    assert kept([edited, original]) == 1
    assert kept([original, edited]) == 0


def test_a_turned_image_is_not_a_sharper_one() -> None:
    original = scene()
    for edit in (lambda image: image.rotate(10), lambda image: image.transpose(MIRROR)):
        pair = edit(original.filter(ImageFilter.GaussianBlur(1.5))).convert("L"), original.convert("L")
        assert made_of(pair_figures(*pair)) is Made.UNKNOWN
    assert made_of(pair_figures(EDITS["blurred"](original).convert("L"), original.convert("L"))) is Made.FIRST


def test_large_letters_on_a_smooth_image_are_added_to_it() -> None:
    random, (down, across) = np.random.default_rng(0), np.mgrid[:384, :384] / 384
    noise = Image.fromarray(random.integers(0, 256, (384, 384), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(1))
    rough = np.asarray(noise, float)
    levels = 120 + 80 * down - 40 * across + 6 * (rough - rough.mean()) / rough.std()
    original = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    assert kept([with_text(original), original]) == 1
    assert kept([original, with_text(original)]) == 0


def test_what_was_added_shows_where_an_image_is_wider_than_the_middle_that_is_compared() -> None:
    original = scene(1040)
    marked = original.copy()
    for top in (0, 940):
        ImageDraw.Draw(marked).text((40, top), "SOME WORDS", "white", font_size=90, stroke_width=4, stroke_fill="black")
    assert kept([marked, original]) == 1


def test_a_badly_compressed_image_is_no_reason_to_think_that_detail_was_added() -> None:
    details = Details(lambda number: [scene(), noisy(scene())][number], {})
    clean, noise = Member(0, 0, 50.0, False), Member(1, 1, 95.0, False)
    assert best_member([clean, noise], details).number == 1
    assert best_member([replace(clean, quality=80.0), noise], details).number == 0


def test_the_comparison_of_a_pair_is_kept_and_does_not_depend_on_its_order() -> None:
    images, kept_bytes, opened = [scene(), noisy(scene())], {}, []

    def load(number: int) -> Image.Image:
        opened.append(number)
        return images[number]

    details = Details(load, kept_bytes)
    assert details.made_of((0, 0), (1, 0)) is Made.SECOND
    assert details.made_of((1, 0), (0, 0)) is Made.FIRST
    assert sorted(opened) == [0, 1]
    assert Details(load, kept_bytes).made_of((0, 0), (1, 0)) is Made.SECOND
    assert sorted(opened) == [0, 1]


def test_an_image_on_plain_ground_is_as_large_as_itself_with_text_or_noise_on_that_ground() -> None:
    original = Image.new("RGB", (400, 400), "white")
    original.paste(scene(), (80, 80))
    for edit in (noisy, with_text):
        assert kept([edit(original), original]) == 1
    bars = Image.new("RGB", (400, 560), "black")
    bars.paste(original, (0, 80))
    assert kept([bars, original]) == 1


def test_an_enlargement_does_not_win_in_a_group_with_images_that_lost_detail() -> None:
    original = scene()
    larger = original.resize((300, 300), LANCZOS)
    duller = ImageEnhance.Contrast(original).enhance(0.6)
    assert kept([larger, EDITS["blurred"](original), original]) == 2
    assert kept([larger, EDITS["blurred"](original), duller, original]) == 3


@pytest.mark.parametrize("quality", [50, 75, 90])
def test_what_compression_adds_to_a_small_drawing_is_no_detail(quality: int) -> None:
    patches = Image.fromarray(np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8))
    saved = BytesIO()
    patches.resize((84, 70), Image.Resampling.BICUBIC).save(saved, "JPEG", quality=quality)
    smaller = Image.open(saved).convert("RGB")
    assert kept([smaller, patches.resize((96, 80), Image.Resampling.BICUBIC)], [quality, 100.0]) == 1


@pytest.mark.parametrize("factor", [1.2, 1.5, 2.0, 3.0])
def test_neither_an_enlargement_nor_a_reduced_image_wins_over_its_original(factor: float) -> None:
    original = scene()
    larger, smaller = round(240 * factor), round(240 / factor)
    for kernel in (LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR):
        assert kept([original, original.resize((larger, larger), kernel)]) == 0
    assert kept([original.resize((smaller, smaller), LANCZOS), original]) == 1


def test_a_canvas_adds_nothing_also_around_an_enlargement() -> None:
    original = scene()
    assert kept([original, on_canvas(original)]) == 0
    assert kept([original, on_canvas(original.resize((480, 480), LANCZOS))]) == 0


def test_colour_jpeg_quality_and_captions_decide_between_images_of_one_size() -> None:
    original = scene()
    assert kept([original.convert("L").convert("RGB"), original]) == 1
    assert kept([original, original], [40.0, 90.0]) == 1
    assert kept([original, original], captioned=(1,)) == 1


def test_of_several_edits_and_their_original_the_original_is_kept() -> None:
    original = scene()
    darker = original.point([level * 3 // 5 for level in range(256)] * 3)
    flipped_corner, marked = original.copy(), original.copy()
    flipped_corner.paste(Image.new("RGB", (80, 80), "white"), (0, 0))
    marked.paste(Image.new("RGB", (90, 60), "black"), (150, 180))
    assert kept([flipped_corner, darker, original, marked]) == 2


def test_a_group_is_listed_under_its_best_image_with_every_member_once() -> None:
    original = scene()
    images = [original.resize((480, 480), LANCZOS), original, on_canvas(original)]
    near = {
        1: Duplicate(0, "near_duplicate", 0.9, "12 of 256 bits differ"),
        2: Duplicate(0, "near_duplicate", 0.8, "cropped"),
    }
    details = Details(lambda number: images[number], {})

    def member(number: int) -> Member:
        return Member(number, number, 90.0, False)

    found = with_best_keepers(near, member, lambda number: False, details, lambda number: f"{number}.png")
    assert {number: copy.keeper for number, copy in found.items()} == {0: 1, 2: 1}
    assert found[0].detail == "12 of 256 bits differ" and found[2].detail == "cropped, compared with 0.png"
    assert with_best_keepers(near, member, lambda number: number == 0, details, str) == near


def screenshot(image: Image.Image) -> Image.Image:
    screen = Image.new("RGB", (640, 480), "white")
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 0, 640, 40), "#dee1e6")
    draw.text((20, 12), "https://example.org/album/view?id=20391", "black", font_size=14)
    screen.paste(image.resize((360, 360)), (30, 70))
    for row in range(8):
        draw.rectangle((420, 80 + 40 * row, 480 + 17 * row, 92 + 40 * row), "#5f6368")
    return screen


def phone(image: Image.Image) -> Image.Image:
    screen = Image.new("RGB", (360, 720), "black")
    screen.paste(image.resize((360, 360)), (0, 90))
    draw = ImageDraw.Draw(screen)
    draw.text((12, 10), "12:41", "white", font_size=16)
    draw.text((12, 480), "a line of comments", "white", font_size=20)
    return screen


def meme(image: Image.Image) -> Image.Image:
    result = Image.new("RGB", (image.width, image.height * 7 // 5), "white")
    result.paste(image, (0, image.height // 5))
    draw = ImageDraw.Draw(result)
    for top, words in ((0.04, "WHEN YOU SEE IT"), (0.9, "and cannot unsee it")):
        draw.text((20, result.height * top), words, "black", font_size=image.height // 12)
    return result


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
@pytest.mark.parametrize("framed", [screenshot, phone, meme])
def test_what_a_frame_with_text_adds_is_no_content(framed: Callable[[Image.Image], Image.Image]) -> None:
    original = scene(384)
    assert kept([framed(original), original]) == 1
    assert kept([framed(original), original, EDITS["blurred"](original), meme(original)]) == 1


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
def test_an_edge_within_an_image_is_not_the_edge_of_its_frame() -> None:
    dark = np.array(scene(384)).astype(float)
    dark[:, :6] *= 0.5
    framed = Image.new("RGB", (800, 600), "#202124")
    framed.paste(Image.fromarray(dark.astype(np.uint8)), (60, 100))
    assert frame_of(framed, Image.fromarray(dark.astype(np.uint8))) == ((60, 100, 444, 484), True)


def on_paper() -> Image.Image:
    """A round drawing on white."""
    original = Image.new("RGB", (384, 384), "white")
    outline = Image.new("L", (230, 230), 0)
    ImageDraw.Draw(outline).ellipse((0, 0, 230, 230), fill=255)
    original.paste(scene(230), (77, 77), outline)
    return original


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
def test_most_images_of_a_group_show_what_a_page_of_the_same_tone_adds() -> None:
    """A page alone could be the original, and the other a crop."""
    original = on_paper()
    others = [ImageEnhance.Brightness(original).enhance(0.8), EDITS["noise"](original), EDITS["text"](original)]
    assert kept([screenshot(original), original]) == 0
    assert kept([screenshot(original), original, *others]) == 1


def test_a_drawing_with_less_paper_around_it_than_most_has_no_narrower_border() -> None:
    original = on_paper()
    assert (
        kept(
            [
                original,
                original.crop((40, 40, 344, 344)),
                *(EDITS[name](original) for name in ("noise", "text", "blurred")),
            ]
        )
        == 0
    )


def test_a_white_canvas_adds_nothing_to_a_drawing_on_white() -> None:
    original, canvas = Image.new("RGB", (400, 400), "white"), Image.new("RGB", (680, 680), "white")
    original.paste(scene(180), (90, 120))
    canvas.paste(original, (56, 84))
    barred = [Image.new("RGB", (400, 560), colour) for colour in ("black", "navy", "gray")]
    for each in barred:
        each.paste(original, (0, 80))
    images = [canvas, *barred, original]
    details = Details(images.__getitem__, {})
    facts = {number: details.facts(number) for number in range(5)}
    parts = common_parts(facts)
    assert parts[4] == WHOLE and facts[0].side(parts[0]) in (680, 180)
    assert common_sides(facts, parts) == pytest.approx(dict.fromkeys(range(5), 400), rel=0.01)


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
def test_in_a_large_group_those_that_are_compared_in_pairs_are_heard() -> None:
    original, heard = scene(120), []
    images = [original] + [ImageEnhance.Brightness(original).enhance(1 + 0.01 * number) for number in range(1, 20)]

    class Listening(Details):
        def consensus(self, numbers: Sequence[int]) -> Consensus:
            heard.append(list(numbers))
            return Consensus(numbers, np.ones((1, len(numbers), len(numbers))))

    members = [Member(number, number, 90.0, number == 19) for number in range(20)]
    assert best_member(members, Listening(images.__getitem__, {})).number == 19
    assert [len(each) for each in heard] == [16, 16] and 19 not in heard[0] and heard[1][0] == 19


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
def test_a_frame_around_a_larger_image_is_kept_before_one_of_half_the_size() -> None:
    original = scene(384)
    assert kept([meme(original), original.resize((192, 192), LANCZOS)]) == 0


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
def test_the_whole_image_is_kept_before_a_crop_also_where_it_goes_on_with_an_even_sky() -> None:
    pixels = np.array(scene(384))
    pixels[:150] = np.linspace(120, 190, 150)[:, None, None]
    skies = Image.fromarray(pixels)
    for box in ((0, 60, 384, 384), (40, 100, 340, 380)):
        assert may_be_framed(skies.convert("L"))
        assert kept([skies.crop(box), skies]) == 1


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
def test_a_crop_of_the_sharpest_part_does_not_make_the_whole_an_enlargement() -> None:
    sharp = scene(384)
    whole = sharp.filter(ImageFilter.GaussianBlur(3))
    box = (30, 30, 354, 354)
    whole.paste(sharp.crop(box), box)
    assert kept([whole.crop(box), whole]) == 1


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    for each in (quality, 95):
        file = BytesIO()
        image.save(file, "JPEG", quality=each)
        image = Image.open(file).convert("RGB")
    return image


@pytest.mark.parametrize("quality", [10, 30, 50])
def test_the_quality_of_an_earlier_jpeg_shows_in_the_pixels(quality: int) -> None:
    compressed = saved_again(scene(384), quality)
    assert quality_of(compressed.convert("L")) == pytest.approx(quality, rel=0.3)
    assert quality_of(compressed.resize((300, 300), LANCZOS).convert("L")) == 100


def flat_drawing() -> Image.Image:
    image = Image.new("RGB", (384, 384), "white")
    for start in range(0, 384, 48):
        ImageDraw.Draw(image).rectangle((start, 8, start + 24, 360), fill="navy")
        ImageDraw.Draw(image).ellipse((8, start, 200, start + 30), outline="black", width=3)
    return image


@pytest.mark.parametrize(
    "make", [lambda: scene(384), flat_drawing, lambda: noisy(Image.new("RGB", (384, 384), "gray"))]
)
def test_images_that_were_no_jpeg_show_no_quality(make: Callable[[], Image.Image]) -> None:
    assert quality_of(make().convert("L")) == 100
    assert quality_of(saved_again(make(), 92).convert("L")) == 100


@pytest.mark.parametrize("quality", [10, 30])
def test_an_image_that_was_compressed_before_does_not_win_over_its_original(quality: int) -> None:
    original = saved_again(scene(384), 95)
    compressed = saved_again(original, quality)
    assert kept([compressed, original], [95.0, 95.0]) == 1
    assert kept([compressed, original, EDITS["blurred"](original)], [95.0, 95.0, 95.0]) == 1


def test_where_all_were_compressed_before_the_original_is_kept_as_ever() -> None:
    original = saved_again(scene(384), 30)
    assert kept([original, original.resize((192, 192), LANCZOS), with_text(original)]) == 0


def test_an_image_smaller_than_a_block_shows_no_quality() -> None:
    assert [quality_of(Image.new("L", size)) for size in ((5, 5), (5, 100), (600, 7))] == [100, 100, 100]


def test_strong_colours_are_no_better_than_those_of_the_original() -> None:
    original = ImageEnhance.Color(scene()).enhance(0.4)
    assert kept([original, ImageEnhance.Color(original).enhance(2.2)]) == 0


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
def test_a_crop_of_a_drawing_on_plain_ground_does_not_win_for_its_narrower_border() -> None:
    disc, original = Image.new("L", (300, 300)), Image.new("RGB", (400, 400), "white")
    ImageDraw.Draw(disc).ellipse((0, 0, 299, 299), fill=255)
    original.paste(scene(300), (60, 40), disc)
    lighter = ImageEnhance.Brightness(original).enhance(1.2)
    assert kept([original.crop((20, 20, 348, 328)), lighter, original]) == 2
    assert kept([original.crop((70, 20, 390, 390)), lighter, ImageEnhance.Color(original).enhance(2), original]) == 3


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
def test_text_on_a_smaller_image_does_not_make_the_original_an_enlargement() -> None:
    original = scene(384).filter(ImageFilter.GaussianBlur(1.2))
    small = with_text(original.resize((192, 192), LANCZOS))
    assert kept([small, EDITS["vignette"](original), original, original.crop((150, 0, 384, 234))]) == 2


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
def test_a_better_image_is_kept_though_all_others_were_made_of_a_smaller_or_blurred_one() -> None:
    original = scene(384)
    smaller = saved_again(original.resize((256, 256), LANCZOS), 75)
    others = [with_text(smaller), EDITS["vignette"](smaller), smaller.crop((8, 8, 248, 248))]
    assert kept([smaller, *others, original]) == 4


@pytest.mark.skipif(not can_verify(), reason="needs OpenCV")
def test_edits_tell_less_about_each_other_than_their_original_does() -> None:
    original = scene(384)
    edits = [edit(original) for edit in EDITS.values()]
    images = [*edits, original, original.crop((20, 20, 350, 350)), original.rotate(4), original.transpose(MIRROR)]
    consensus = Consensus(range(len(images)), shared_information([look_at(image) for image in images]))
    shares = [consensus.share(number, len(edits)) for number in range(len(images))]
    assert max(shares[: len(edits)]) < 0.97 and max(shares[-3:-1]) < 0.97
    assert shares[-1] == pytest.approx(1, abs=0.01)  # it is as good as the original


def test_images_that_were_not_compared_tell_as_much_as_any() -> None:
    shared = np.array([[[0, 4, 6, np.nan], [4, 0, 3, np.nan], [6, 3, 0, np.nan], [np.nan] * 4]])
    consensus = Consensus([7, 8, 9, 5], shared)
    assert consensus.share(7, 8) == 2 and consensus.share(8, 7) == 0.5
    assert consensus.share(7, 5) == consensus.share(5, 7) == consensus.share(7, 1) == 1
