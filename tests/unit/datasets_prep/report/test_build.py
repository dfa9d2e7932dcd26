import base64
import hashlib
import random
import re
import tracemalloc
from array import array
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_prep.output.publish import card
from datasets_prep.records import BucketRow, LintMark, Prepared
from datasets_prep.report import captions as report_texts
from datasets_prep.report import words as report_words
from datasets_prep.report.bounded import Least, key_of, places_of
from datasets_prep.report.build import write_report
from datasets_prep.report.pieces import Thumbnails, name_html, text_html
from datasets_prep.report.thumbnails import SmallImage, small_image
from datasets_prep.report.words import Words
from datasets_prep.rows import LazyRows, Row

HOSTILE = "\"><script>window.ran=1</script>'&\n\u202egpj\udcff\0.png"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def kept(source: str, text: str = "a cat", **more: object) -> dict[str, object]:
    row = {"file_name": f"images/{source}", "text": text, "width": 80, "height": 40, "sha256": sha256(source)}
    return {**row, "source": source, "flags": [], "scores": {}, "caption_from": "sidecar", "bucket": [64, 64], **more}


def left_out(source: str, reason: str, **more: object) -> dict[str, object]:
    return {"source": source, "reason": reason, "detail": "why", "duplicate_of": None, "score": None, **more}


def noise(source: str, size: tuple[int, int] = (80, 40)) -> SmallImage:
    seed = int.from_bytes(hashlib.sha256(source.encode("utf-8", "surrogatepass")).digest()[:4], "big")
    return small_image(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)))


M = sha256("m")


class Page(HTMLParser):
    """The elements of a page and what they say, by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._section = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"] or ""

    def handle_data(self, data: str) -> None:
        self.texts[self._section] = self.texts.get(self._section, "") + data


def report(folder: Path, prepared: Prepared, load=noise) -> str:
    return write_report(folder / "report.html", prepared, load).read_text(encoding="utf-8")


def everything() -> Prepared:
    rows = [
        kept(f"{letter}.png", f"a cat, number {letter}", scores={"brightness": 10.0 + index, "border": 0.0})
        for index, letter in enumerate("abcdefgh")
    ]
    rows[1] |= {"flags": ["dark"], "captions_alt": ["another one"], "split": "validation"}
    rows[2] |= {"near_duplicate_of": "d.png", "near_duplicate_score": 0.83}
    rejected = [
        left_out("mirror.png", "near_duplicate", duplicate_of="a.png", score=0.91, detail="mirrored", sha256=M),
        left_out("same.png", "exact_duplicate", duplicate_of="b.png", score=1.0, sha256=sha256("b.png")),
        left_out("cut.jpg", "truncated", detail="12 bytes lack"),
    ]
    return Prepared(
        "cats", rows, rejected, [("scan", 11, 11, "1 folder"), ("decode", 11, 10, "1 cut short")], ["a notice"],
        [LintMark("longer than 75 tokens", "90 tokens", ("h.png",))],
        [BucketRow(64, 64, 8, 0.5, 8, ("a.png", "gone.png"))], "source: cats\n",
    )  # fmt: skip


def test_every_part_says_what_was_found(tmp_path: Path) -> None:
    texts = Page(report(tmp_path, everything())).texts
    assert "1 cut short" in texts["stages"]
    assert "mirrored" in texts["copies"] and "score 0.91" in texts["copies"] and "score 0.83" in texts["copies"]
    assert "12 bytes lack" in texts["rejected"] and "cut.jpg" in texts["rejected"]
    assert "Darkest" in texts["worst"] and "brightness 10" in texts["worst"]
    assert "Widest borders" not in texts["worst"]  # no image has one
    assert "dark" in texts["flags"]
    assert "90 tokens" in texts["lint"] and "h.png" in texts["lint"]
    assert "number" in texts["words"]
    assert "a cat, number e" in texts["list"] and "another one" in texts["list"]
    assert "64 × 64" in texts["sizes"] and "50.0 %" in texts["sizes"]
    assert "source: cats" in texts["options"]
    assert "a notice" in texts[""]


def test_an_empty_set_gives_a_page(tmp_path: Path) -> None:
    assert "Nothing was left out" in Page(report(tmp_path, Prepared("none", [], [], []))).texts["rejected"]


def test_the_page_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    page = report(tmp_path, everything())
    for tag, attributes in Page(page).elements:
        assert tag not in ("img", "link", "iframe", "object", "embed"), tag
        assert "src" not in attributes
        assert all(not name.startswith("on") for name in attributes)
        assert tag != "a" or (attributes["href"] or "").startswith("#")
    assert set(re.findall(r"url\(([^,)]*)", page)) == {"data:image/webp;base64"}


def test_the_policy_names_the_one_script(tmp_path: Path) -> None:
    page = report(tmp_path, everything())
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = next(attributes["content"] for tag, attributes in Page(page).elements if "http-equiv" in attributes)
    assert policy is not None and "default-src 'none'" in policy
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_names_and_captions_are_texts_and_nothing_else(tmp_path: Path) -> None:
    row = kept(HOSTILE, HOSTILE, captions_alt=[HOSTILE], flags=[HOSTILE], caption_from=HOSTILE, split=HOSTILE,
               scores={HOSTILE: 1.0}, near_duplicate_of=HOSTILE)  # fmt: skip
    rejected = [left_out(HOSTILE + "2", HOSTILE, detail=HOSTILE, duplicate_of=HOSTILE, score=0.5)]
    rejected += [left_out(HOSTILE + "3", "near_duplicate", detail=HOSTILE, duplicate_of=HOSTILE, score=0.5)]
    prepared = Prepared(
        HOSTILE, [row], rejected, [(HOSTILE, 1, 1, HOSTILE)], [HOSTILE], [LintMark(HOSTILE, HOSTILE, (HOSTILE,))],
        [BucketRow(64, 64, 1, 0.0, 0, (HOSTILE,))], HOSTILE,
    )  # fmt: skip
    page = report(tmp_path, prepared)
    assert page.count("<script") == 1
    assert "\0" not in page
    tags = {tag for tag, _ in Page(page).elements}
    assert tags == {tag for tag, _ in Page(report(tmp_path, everything())).elements} | {"code"}


def test_a_name_shows_what_cannot_be_seen() -> None:
    assert name_html("a\n\u202eb\udcff") == r'<bdi class="name">a\n\u202eb\udcff</bdi>'
    assert text_html("a\r\n<b>\0\udcff") == "a&#13;\n&lt;b&gt;\ufffd\ufffd"
    assert text_html("x" * 300, 10) == "x" * 10 + "…"


def test_an_image_is_held_once_and_the_worst_come_first(tmp_path: Path) -> None:
    asked: list[str] = []

    def load(source: str) -> SmallImage | None:
        asked.append(source)
        return None if source == "cut.jpg" else noise(source)

    page = report(tmp_path, everything(), load)
    assert len(asked) == len(set(asked))
    assert page.count("data:image/webp") == len(asked) - 1
    worst = re.findall(r'class="name">(.)\.png', page[page.index('id="worst"') : page.index('id="flags"')])
    assert worst[:4] == ["a", "b", "c", "d"]


def test_the_crop_that_training_makes_is_framed(tmp_path: Path) -> None:
    page = report(tmp_path, everything())
    assert 'style="inset:0.0% 25.0%"' in page  # 80 x 40 shown as a square loses half of its width


def test_only_images_of_known_and_own_content_can_be_decided_about(tmp_path: Path) -> None:
    page = Page(report(tmp_path, everything()))
    decidable = {attributes["data-sha"] for _, attributes in page.elements if "data-sha" in attributes}
    assert decidable == {sha256(f"{letter}.png") for letter in "abcdefgh"} | {M}
    cards = [attributes for tag, attributes in page.elements if "pic" in (attributes.get("class") or "").split()]
    assert sum("data-sha" not in attributes for attributes in cards) == 3  # same.png twice, cut.jpg


def test_thumbnails_end_where_the_page_would_be_too_large() -> None:
    few = Thumbnails(noise, most=3)
    assert [few.of(name) is not None for name in ("a", "b", "c", "d", "a")] == [True, True, True, False, True]
    assert few.is_full
    small = Thumbnails(lambda name: noise(name, (192, 192)), most_bytes=60_000)
    made = [small.of(str(index)) is not None for index in range(20)]
    assert not all(made) and made[0]
    assert len(small.rules) < 60_000 + 40_000


@pytest.mark.parametrize(
    ("marked", "shown"),
    [
        pytest.param([49, 48], {*range(18), 48, 49}, id="few"),
        pytest.param(range(31, 50), {0, *range(31, 50)}, id="more than the report names elsewhere"),
    ],
)
def test_captions_that_have_no_room_are_counted_and_those_to_mend_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: Sequence[int], shown: set[int]
) -> None:
    monkeypatch.setattr(report_texts, "MOST_CAPTIONS", 20)
    rows = [kept(f"{index:03}.png", f"caption {index};") for index in range(50)]
    mark = LintMark("empty", "", tuple(f"{index:03}.png" for index in marked))
    text = Page(report(tmp_path, Prepared("many", rows, [], [], [], [mark]))).texts["list"]
    assert "30 more captions" in text
    assert {int(number) for number in re.findall(r"caption (\d+);", text)} == shown


def test_the_same_set_gives_the_same_bytes(tmp_path: Path) -> None:
    assert report(tmp_path, everything()) == report(tmp_path, everything())


def nothing_to_show(source: str) -> None:
    """Load no image."""


def many(num: int, asked: Counter[str]) -> Prepared:
    """A set whose rows are made again whenever they are asked for."""

    def kept_row(place: int) -> Row:
        asked["kept"] += 1
        own = {"near_duplicate_of": f"{place - 1}.png", "near_duplicate_score": 0.9} if place % 5 == 1 else {}
        scores = {"brightness": place * 7 % 1000 / 10, "detail": place * 11 % 1000 / 10}
        return kept(f"{place}.png", f"a cat on mat {place}", scores=scores, flags=["dark"], **own)

    def rejected_row(place: int) -> Row:
        asked["rejected"] += 1
        return left_out(f"r{place}.png", "exact_duplicate", duplicate_of=f"{place % num}.png", score=1.0)

    sources = tuple(f"{place}.png" for place in range(num))
    marks = [LintMark("repeated", "a cat", sources), LintMark("short", "", sources[::3])]
    return Prepared("many", LazyRows(num, kept_row), LazyRows(num // 4, rejected_row), [], [], marks)


def test_rows_are_made_once_and_those_shown_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_texts, "MOST_CAPTIONS", 20)
    asked: Counter[str] = Counter()
    report(tmp_path, many(3000, asked), nothing_to_show)
    assert 3000 < asked["kept"] < 3500
    assert 750 < asked["rejected"] < 1250


def test_memory_hardly_grows_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_texts, "MOST_CAPTIONS", 20)
    monkeypatch.setattr(report_words, "MOST_COUNTED", 200)

    def peak(num: int) -> int:
        prepared = many(num, Counter())
        tracemalloc.start()
        report(tmp_path, prepared, nothing_to_show)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)  # what is loaded once
    assert peak(6000) - peak(2000) < 50 * 4000


def test_the_least_of_many_are_found_in_order() -> None:
    numbers = random.Random(0)
    values = [float(numbers.randrange(50)) for _ in range(2000)]
    least = Least(30)
    for place, value in enumerate(values):
        least.add(value, place)
    assert least.places() == sorted(range(2000), key=lambda place: (values[place], place))[:30]


def test_rows_are_found_by_the_names_of_their_images() -> None:
    names = [f"{number}.png" for number in range(100)] + [HOSTILE]
    places = places_of(array("Q", map(key_of, names)))
    assert places.of([HOSTILE, "gone.png", "7.png", "0.png"]).tolist() == [100, -1, 7, 0]
    assert np.flatnonzero(places.having([["3.png", "gone.png"], [HOSTILE, "3.png"]])).tolist() == [3, 100]
    assert places_of(array("Q")).of(["a.png"]).tolist() == [-1]


def test_of_many_copies_the_most_doubtful_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    numbers = random.Random(0)
    rows = [kept(f"k{number:03}.png") for number in range(600)]
    rejected = [
        left_out(
            f"r{number}.png",
            numbers.choice(["near_duplicate", "pixel_duplicate"]),
            duplicate_of=f"k{numbers.randrange(600):03}.png",
            score=numbers.randrange(50, 100) / 100,
        )
        for number in range(3000)
    ]
    doubts: dict[str, list[tuple[bool, float]]] = {}
    for row in rejected:
        doubt = (row["reason"] != "near_duplicate", float(str(row["score"])))
        doubts.setdefault(str(row["duplicate_of"]), []).append(doubt)
    expected = sorted(doubts, key=lambda source: (min(doubts[source]), source))[:100]
    page = report(tmp_path, Prepared("copies", rows, rejected, []), nothing_to_show)
    copies = page[page.index('id="copies"') : page.index('id="rejected"')]
    assert re.findall(r'class="name">(k\d+\.png)', copies) == expected
    others = sum(len(doubts[source]) for source in doubts if source not in expected)
    assert f"of {len(doubts) - 100} more groups the duplicates are listed: {others:,} left out in" in copies
    (several,) = re.findall(rf"{expected[0]}.*?(?={expected[1]})", copies, re.DOTALL)
    num = len(doubts[expected[0]])
    assert several.count("left out, score") == min(num, 5)
    assert (f"and {num - 5} more" in several) == (num > 5)


def test_duplicates_that_are_not_shown_are_named_in_the_listing_that_has_them(tmp_path: Path) -> None:
    rows = [kept(f"k{number:03}.png") for number in range(202)]
    for number in range(101):
        rows[2 * number] |= {"near_duplicate_of": f"k{2 * number + 1:03}.png", "near_duplicate_score": 0.9}
    rejected = [left_out("r.png", "near_duplicate", duplicate_of="k003.png", score=0.8)]
    copies = Page(report(tmp_path, Prepared("copies", rows, rejected, []), nothing_to_show)).texts["copies"]
    assert "of 1 more group the duplicates are listed: 1 kept in metadata.jsonl." in copies
    assert "rejected.jsonl" not in copies


def test_one_of_a_thing_is_not_called_many(tmp_path: Path) -> None:
    prepared = Prepared("one", [kept("a.png")], [left_out("b.png", "truncated")], [])
    assert "2 files: 1 kept, 1 left out." in Page(report(tmp_path, prepared)).texts[""]
    many = Prepared("many", [kept("a.png")], [left_out(f"{number}.png", "truncated") for number in range(101)], [])
    assert "1 more is in rejected.jsonl." in Page(report(tmp_path, many)).texts["rejected"]
    marks = [LintMark(f"kind {number}", "", ("a.png",)) for number in range(61)]
    lint = Page(report(tmp_path, Prepared("lint", [kept("a.png")], [], [], (), marks))).texts["lint"]
    assert "1 more mark is not shown." in lint
    assert "\n1 image, prepared" in card(prepared, {})


def test_words_and_phrases_are_counted_once_a_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Words(5)
    texts = ["A red cat, a red cat", "the red cat sat", "It's a red cat", "one", ""]
    for place, text in enumerate(texts):
        words.add(place, {"text": text})
    terms = re.findall(r'data-term="([^"]*)">[^<]* <small>(\d+)', words.html())
    assert terms == [("cat", "3"), ("red", "3"), ("a red cat", "2")]
    monkeypatch.setattr(report_words, "MOST_COUNTED", 2)
    words = Words(5)
    for place, text in enumerate(texts):
        words.add(place, {"text": text})
    assert "Counted on 2 captions, one in every 3." in words.html()
