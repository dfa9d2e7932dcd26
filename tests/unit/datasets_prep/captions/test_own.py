from pathlib import Path

import pytest

from datasets_prep.captions.name_words import name_in_words
from datasets_prep.captions.own import made_caption, read_folder_entries, with_trigger
from datasets_prep.config import PrepConfig
from datasets_prep.pipeline import prepare
from finetune.data.captions.reading import CaptionReading
from finetune.data.listing import Entry, Findings
from finetune.data.manifest import read_manifest
from finetune.data.visible_files import FolderSource
from tests.support.images import A, drawn, encoded, listing, write
from tests.support.other_user import as_another_user
from tests.support.prepared import rows_of


def read_entries(folder: Path, names: list[str], column: str, findings: Findings) -> dict[str, Entry]:
    reading = CaptionReading(column, is_training=False)
    return read_folder_entries(str(folder), FolderSource(str(folder)).read, names, reading, findings)


def entries(folder: Path, files: dict[str, bytes | str], column: str = "text") -> tuple[dict[str, tuple], str]:
    write(folder, files)
    findings = Findings()
    found = read_entries(folder, sorted(files), column, findings)
    return {name: entry.captions for name, entry in found.items()}, "\n".join(findings.warnings)


def test_listing_and_text_files_are_read_and_nothing_else_is_taken_away(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = dict.fromkeys(("a.png", "b.jpg", "d/c.png", "e.txt", "notes.md"), "x")
    files |= {"metadata.jsonl": listing(A | {"captions_alt": ["uno"]}, {"file_name": "gone.png", "text": "x"})}
    files |= {"a.txt": "one\nfirst\r\n\n", "b.TXT": "\ufefftwo", "d/c.caption": "drei".encode("utf-16")}
    found, notices = entries(tmp_path, files)
    assert found == {
        "a.png": ("one", "uno", "first"),
        "b.jpg": ("two",),
        "d/c.png": ("drei",),
        "e.txt": (),
        "notes.md": (),
    }
    assert "gone.png" in notices and "e.txt" in notices


def test_weight_repeats_and_split_of_the_listing_are_kept(tmp_path: Path) -> None:
    row = {**A, "weight": 0.5, "repeats": 3, "split": "validation"}
    write(tmp_path, {"a.png": "x", "metadata.jsonl": listing(row)})
    entry = read_entries(tmp_path, ["a.png", "metadata.jsonl"], "text", Findings())["a.png"]
    assert (entry.weight, entry.repeats, entry.split) == (0.5, 3, "validation")


def test_broken_lines_are_noted_and_the_others_used(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"a.png": "x", "b.png": "x", "metadata.jsonl": listing(A) + "{broken\n"}
    found, notices = entries(tmp_path, files | {"b.txt": "nul\0", "b.json": '"two"'})
    assert found == {"a.png": ("one",), "b.png": ("two",)}
    assert "not JSON" in notices and "b.txt (it contains NUL characters)" in notices


def test_a_wrong_caption_column_is_named_as_the_option_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^caption_column: 'prompt' is not a column .* file_name, text"):
        entries(tmp_path, {"a.png": "x", "metadata.jsonl": listing(A)}, "prompt")


@pytest.mark.parametrize(
    ("content", "captions"),
    [
        ('"one"', ("one",)),
        ('{"caption": " one ", "width": 3}', ("one",)),
        ('{"text": ["one", "two", null, ""]}', ("one", "two")),
        ('{"captions": ["one", "two"], "caption": "three"}', ("three", "one", "two")),
        ('{"tags": ["red", "car"]}', ("red, car",)),
        ('{"tags": "red car", "prompt": "mine"}', ("mine", "red car")),
        ('\ufeff{"text": "é"}', ("é",)),
        ('{"text": "a\\u0000b", "caption": "one"}', ("one",)),
        ('{"text": "\\ud800", "caption": 3}', ()),
        ('{"caption": ""}', ()),
    ],
)
def test_a_json_file_beside_an_image_holds_captions(tmp_path: Path, content: str, captions: tuple[str, ...]) -> None:
    assert entries(tmp_path, {"a.png": "x", "a.json": content}, "prompt")[0] == {"a.png": captions}


@pytest.mark.parametrize("content", ['{"width": 3}', "[1, 2]", "{broken", "[" * 100_000, "3"])
def test_a_json_file_about_something_else_holds_none(tmp_path: Path, content: str) -> None:
    assert entries(tmp_path, {"a.png": "x", "a.json": content})[0] == {"a.png": (), "a.json": ()}


def test_a_json_file_without_an_image_is_nobodys_caption(tmp_path: Path) -> None:
    found, notices = entries(tmp_path, {"a.json": '"one"', "a.txt": "two"})
    assert found == {"a.json": (), "a.txt": ()} and "a.txt" in notices


def test_images_of_the_same_stem_share_a_text_file_and_it_is_said(tmp_path: Path) -> None:
    found, notices = entries(tmp_path, {"a.jpg": "x", "a.png": "x", "a.txt": "one", "b.txt": "two", "b.png": "x"})
    assert found == {"a.jpg": ("one",), "a.png": ("one",), "b.png": ("two",)}
    assert "several images" in notices and "(1): a.txt" in notices


@pytest.mark.parametrize("folder", ["", "d/"])
def test_a_listing_without_captions_is_named_by_its_path(folder: str, tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {f"{folder}a.png": "x", f"{folder}metadata.csv": "file_name,place\na.png,Bonn\n"}
    with pytest.raises(ValueError) as caught:
        entries(tmp_path, files)
    assert f"{tmp_path}/{folder}metadata.csv" in str(caught.value) and "//" not in str(caught.value)


def test_listings_below_the_top_count_for_their_folder(tmp_path: Path) -> None:
    below = listing({"file_name": "b.png", "text": "near", "weight": 3}, {"file_name": "e/c.png", "text": "deep"})
    files: dict[str, bytes | str] = dict.fromkeys(("a.png", "d/b.png", "d/e/c.png"), "x")
    files |= {"metadata.jsonl": listing(A, {"file_name": "d/b.png", "text": "far", "weight": 2})}
    files |= {"d/metadata.jsonl": below, "d/metadata.csv": "file_name,text\nb.png,unread\n"}
    found, _ = entries(tmp_path, files)
    assert found == {"a.png": ("one",), "d/b.png": ("far", "near"), "d/e/c.png": ("deep",), "d/metadata.csv": ()}
    assert read_entries(tmp_path, sorted(files), "text", Findings())["d/b.png"].weight == 3


def test_a_file_below_the_top_that_only_has_a_listings_name_is_not_a_caption_file(tmp_path: Path) -> None:
    found, notices = entries(tmp_path, {"d/a.png": "x", "d/metadata.csv": "year,place\n1999,Bonn\n"})
    assert found == {"d/a.png": (), "d/metadata.csv": ()} and "d/metadata.csv" in notices


JUNK = ("IMG_20240101_123456", "0001", "photo-1494200483035-db7bc6aa5739", "p0", "picture (2)", "train-00001-of-00099")
JUNK += ("77aa-4b0e-9d1c", "9e107d9d-beef-372b-b682-6bd81d3542a4", "dQw4w9WgXcQ", "P1010001", "IMG-20240101-WA0001")
JUNK += ("WhatsApp Image 2023-01-01 at 12.33.11", "Screenshot_20240101-101112_Chrome", "capture d’écran 2024")
JUNK += ("Neuer Ordner", "New folder (2)", "Camera Roll", "Foto", "Unbenannt-2", "sin título")
WORDS = {
    "a_red-car_0012": "a red car",
    "cat01 (2)": "cat",
    "photo of a cat": "photo of a cat",
    "midnight_cafe_77aa4b0e": "midnight cafe",
    "3d_print of dog's bowl": "3d print of dog's bowl",
    "zwei  Äpfel": "zwei Äpfel",
    "猫_12": "猫",
    "foto de un perro": "foto de un perro",
}


def test_a_file_name_becomes_words_unless_it_says_nothing() -> None:
    names = WORDS | dict.fromkeys(JUNK, "")
    assert {name: name_in_words(name) for name in names} == names


@pytest.mark.parametrize(
    ("source", "trigger", "caption"),
    [
        ("dogs/red_cat_1.png", "sks", "red cat"),
        ("red dogs/001.png", "sks", "red dogs"),
        ("10_sks star/001.png", None, "sks star"),
        ("2024/001.png", "sks", "sks"),
        ("images/001.png", None, ""),
        ("001.png", None, ""),
    ],
)
def test_the_first_name_that_says_something_is_the_caption(source: str, trigger: str | None, caption: str) -> None:
    findings = Findings()
    assert made_caption(source, trigger, findings) == caption
    assert "without a caption" in findings.warnings[0] and "(1)" in findings.warnings[0]


def test_the_trigger_is_added_once() -> None:
    assert with_trigger("a boat", None) == "a boat"
    assert with_trigger("a boat", "ink") == "a boat, ink"
    assert with_trigger("Ink drawing of a boat", "ink") == "Ink drawing of a boat"
    assert with_trigger("a pink boat", "ink") == "a pink boat, ink"


def test_folders_give_repeats_that_recipes_read_and_junk_names_no_caption(tmp_path: Path) -> None:
    images = [encoded(drawn(seed)) for seed in range(4)]
    names = ["10_sks star/IMG_1.png", "10_sks star/p0.png", "1_apple/77aa-4b0e-9d1c.png", "1_apple/red apple.png"]
    files: dict[str, bytes | str] = {**dict(zip(names, images, strict=True)), "10_sks star/p0.txt": "a {red|blue} star"}
    config = PrepConfig((write(tmp_path / "raw", files),), tmp_path / "prepared", workers=1)
    notices = "\n".join(prepare(config).notices)
    assert {row["source"]: (row["text"], row.get("repeats", 1)) for row in rows_of(config.output)} == {
        "10_sks star/IMG_1.png": ("sks star", 10),
        "10_sks star/p0.png": ("a {red|blue} star", 10),
        "1_apple/77aa-4b0e-9d1c.png": ("apple", 1),
        "1_apple/red apple.png": ("red apple", 1),
    }
    assert "10_sks star (10 times), 1_apple (1 times)" in notices and "(1): 10_sks star/p0.png" in notices
    assert sorted(record.repeats for record in read_manifest(str(config.output)).records) == [1, 1, 10, 10]
    own = read_manifest(str(tmp_path / "raw"), captions="folder")
    assert {(record.captions, record.repeats) for record in own.records} == {(("sks star",), 10), (("apple",), 1)}


def test_an_image_without_any_words_stays_without_a_caption_and_it_is_said(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"images/p0.png": encoded(drawn(1)), "images/picture.png": encoded(drawn(2))}
    config = PrepConfig((write(tmp_path / "downloads", files),), tmp_path / "prepared", workers=1)
    (notice,) = prepare(config).notices
    assert "stay without one" in notice and "(2): images/p0.png, images/picture.png" in notice
    with pytest.raises(ValueError, match=r"without a caption \(2\)"):
        read_manifest(str(config.output))
    assert len(read_manifest(str(config.output), captions="none").records) == 2


@pytest.mark.parametrize("name", ["x.txt", "x.png.txt", "x.json", "captions.json", "apart/x.txt", "metadata.jsonl"])
def test_a_caption_file_that_may_not_be_read_stops_the_preparation(open_folder: Path, name: str) -> None:
    files: dict[str, bytes | str] = {"x.png": encoded(drawn(0)), name: "a cat"}
    write(open_folder, files)
    (open_folder / name).chmod(0)

    def read() -> None:
        findings = Findings()
        read_entries(open_folder, sorted(files), "text", findings)
        findings.raise_errors("", "")

    with as_another_user(), pytest.raises(ValueError, match=rf"{name} .*\(Permission denied\)") as error:
        read()
    assert "readable" in str(error.value).lower()


@pytest.mark.parametrize("name", ["x.txt", "x.png.txt", "x.json"])
def test_a_caption_file_that_is_a_broken_link_stops_the_preparation(tmp_path: Path, name: str) -> None:
    write(tmp_path / "raw", {"x.png": encoded(drawn(0))})
    (tmp_path / "raw" / name).symlink_to("gone.txt")
    config = PrepConfig(source=(str(tmp_path / "raw"),), output=tmp_path / "out", workers=1)
    with pytest.raises(ValueError, match=rf"without a caption.*{name} \(No such file"):
        prepare(config)
    assert not (tmp_path / "out" / "metadata.jsonl").exists()
    write(tmp_path / "raw", {"metadata.jsonl": listing({"file_name": "x.png", "text": "a cat"})})
    assert prepare(config).rejected == {"unreadable": 1}
