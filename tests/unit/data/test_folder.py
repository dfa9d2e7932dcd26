import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from datasets_prep.config import PrepConfig
from datasets_prep.pipeline import prepare
from finetune.data.captions.reading import CaptionReading
from finetune.data.captions.text import decode_text
from finetune.data.manifest import read_manifest
from tests.support.images import A, B, C, Row, captions, listed, listing, mistakes, picture, write

OUTSIDE = ("/etc/passwd", "../a.png", "sub/../../a.png", "..\\a.png", "C:\\a.png", "https://example.org/a.png")
OUTSIDE += ("file:///etc/passwd", "a\0.png")


def test_a_listed_folder_gives_every_column_of_a_record(tmp_path: Path) -> None:
    row = {"file_name": "sub/b.jpg", "text": "two", "captions_alt": ["deux"], "weight": 0.5, "repeats": 3, "other": [1]}
    data = picture("blue", (30, 20), "JPEG")
    folder = write(tmp_path, {"a.png": picture(), "sub/b.jpg": data, "metadata.jsonl": listing(row, A)})
    first, second = read_manifest(folder).records
    assert (first.file_name, first.captions) == ("a.png", ("one",))
    assert (first.weight, first.repeats, first.split) == (1, 1, None)
    assert (second.file_name, second.captions, second.weight, second.repeats) == ("sub/b.jpg", ("two", "deux"), 0.5, 3)
    assert (second.width, second.height, second.sha256) == (30, 20, hashlib.sha256(data).hexdigest())


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    record = read_manifest(write(tmp_path, {"a.txt": "x"})).records[0]
    assert (record.width, record.height) == (20, 30)


def test_a_caption_column_may_hold_lists_and_have_another_name(tmp_path: Path) -> None:
    folder = listed(tmp_path, {"file_name": "a.png", "prompt": ["one", " uno ", "one"]})
    assert captions(read_manifest(folder, reading=CaptionReading("prompt"))) == {"a.png": ("one", "uno")}


def test_splits_are_kept(tmp_path: Path) -> None:
    folder = listed(tmp_path, {**A, "split": "train"}, {**B, "split": "validation"}, {**C, "split": None})
    assert [record.split for record in read_manifest(folder).records] == ["train", "validation", None]


def test_a_csv_listing_reads_like_a_json_one(tmp_path: Path) -> None:
    rows = 'file_name,text,weight,repeats,split\r\na.png,"one, with comma",0.5,2,train\r\nb.png,two,,,\r\n'
    folder = write(tmp_path, {"a.png": picture(), "b.png": picture(), "metadata.csv": rows})
    first, second = read_manifest(folder).records
    assert (first.captions, first.weight, first.repeats, first.split) == (("one, with comma",), 0.5, 2, "train")
    assert (second.captions, second.weight, second.repeats, second.split) == (("two",), 1.0, 1, None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_listing_may_have_a_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path: Path, encoding: str) -> None:
    line = json.dumps({"file_name": "a.png", "text": "\u00e9t\u00e9 \u2028 end"}, ensure_ascii=False)
    folder = write(tmp_path, {"a.png": picture(), "metadata.jsonl": f"{line}\r\n\r\n".encode(encoding)})
    manifest = read_manifest(folder)
    assert captions(manifest) == {"a.png": ("\u00e9t\u00e9 \u2028 end",)}
    assert manifest.warnings == ()


def test_images_that_the_listing_does_not_mention_are_counted_not_used(tmp_path: Path) -> None:
    manifest = read_manifest(listed(tmp_path, A))
    assert captions(manifest) == {"a.png": ("one",)}
    assert len(manifest.warnings) == 1 and "does not mention" in manifest.warnings[0] and "(2)" in manifest.warnings[0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"file_name": "lost.png", "text": "x"}, ["do not exist (1)", "lost.png"]),
        *(({"file_name": name, "text": "x"}, ["out of the folder", "line 2"]) for name in OUTSIDE),
        ({"file_name": "a.png", "text": "x"}, ["listed twice (1)", "line 2"]),
        ({"file_name": "./a.png", "text": "x"}, ["listed twice (1)"]),
        ({"file_name": "page.png", "text": "x"}, ["not usable images (1)", "HTML"]),
        ({"file_name": "sub", "text": "x"}, ["cannot be read (1)", "not a regular file"]),
        ({"file_name": "n" * 300 + ".png", "text": "x"}, ["cannot be read (1)"]),
        ({"file_name": "b.png"}, ["without a caption (1)"]),
        *(({**B, "text": text}, ["without a caption (1)", "b.png"]) for text in (" \n", None, [])),
        ({**B, "text": 7}, ["not text", "(1): b.png (int)"]),
        ({**B, "text": ["x", {"y": 1}]}, ["not text", "(1): b.png (an object with y)"]),
        ({**B, "text": "a\0b"}, ["NUL"]),
        ({**B, "text": "\ud800"}, ["broken Unicode"]),
        ({"text": "x"}, ["without a file_name (1)", "line 2"]),
        ({"file_name": 3, "text": "x"}, ["without a file_name (1)"]),
        ({**B, "weight": float("nan")}, ["weights", "nan"]),
        *(({**B, "weight": value}, ["weights"]) for value in (0, 10**400, "2")),
        *(({**B, "repeats": value}, ["repeats"]) for value in (0, 1.5, True)),
        ({**B, "split": "test"}, ["splits", "'test'"]),
    ],
)
def test_a_mistake_in_a_line_is_named(tmp_path: Path, row: Row, words: list[str]) -> None:
    write(tmp_path, {"page.png": "<html>", "sub/x.png": picture()})
    message = mistakes(listed(tmp_path, A, row))
    assert all(word in message for word in words), message
    assert "datasets_prep --source" in message


@pytest.mark.parametrize("line", ["{", "not json", "[" * 100_000, '{"file_name": "b.png",}', "\x00"])
def test_a_line_that_is_not_json_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    message = mistakes(write(tmp_path, {"a.png": picture(), "metadata.jsonl": f"{listing(A)}{line}\n"}))
    assert "not JSON (1)" in message and "line 2" in message


def test_all_mistakes_are_reported_at_once_with_counts_and_the_first_five(tmp_path: Path) -> None:
    rows = [{"file_name": f"lost{number}.png", "text": "x"} for number in range(8)]
    write(tmp_path, {"page.png": "<html>"})
    message = mistakes(listed(tmp_path, A, A, {"file_name": "page.png", "text": "x"}, {**B, "text": ""}, *rows))
    assert "do not exist (8)" in message and "lost4.png and 3 more" in message and "lost5.png" not in message
    for word in ("listed twice (1)", "not usable images (1)", "without a caption (1)"):
        assert word in message
    assert len(message) < 2000


def test_a_missing_caption_column_names_the_columns_that_exist(tmp_path: Path) -> None:
    message = mistakes(listed(tmp_path, {"file_name": "a.png", "prompt": "x", "edit_prompt": "y"}))
    assert "Set data.caption_column" in message and "file_name, prompt, edit_prompt" in message


def test_an_empty_listing_is_named(tmp_path: Path) -> None:
    assert "is empty" in mistakes(write(tmp_path, {"a.png": picture(), "metadata.jsonl": "\n"}))


def test_each_line_of_a_text_file_is_a_caption(tmp_path: Path) -> None:
    files = {"b.JPG": picture(kind="JPEG"), "b.txt": "one\r\n two \rthree\n", "d/a.png": picture()}
    manifest = read_manifest(write(tmp_path, files | {"d/a.caption": "four"}))
    assert captions(manifest) == {"b.JPG": ("one", "two", "three"), "d/a.png": ("four",)}
    (warning,) = manifest.warnings
    assert "(1): b.txt" in warning and "--data.caption_lines" in warning
    assert read_manifest(str(tmp_path), reading=CaptionReading(lines="alternatives")).warnings == ()


def test_text_is_decoded_whatever_its_encoding() -> None:
    text = "été"
    data = [text.encode(encoding) for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")]
    data += [b"\xfe\xff" + text.encode("utf-16-be")]
    assert [decode_text(each) for each in data] == [(text, False)] * 6
    assert decode_text(text.encode("cp1252")) == (text, True) and decode_text(b"") == ("", False)


def test_a_windows_1252_file_is_read_and_counted(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, {"a.png": picture(), "a.txt": b"\xe9t\xe9"}))
    assert captions(manifest) == {"a.png": ("\u00e9t\u00e9",)}
    assert "Windows-1252 (1): a.txt" in manifest.warnings[0]


def test_two_images_of_one_stem_share_the_text_and_other_folders_do_not(tmp_path: Path) -> None:
    files = {"a.jpg": picture(kind="JPEG"), "a.png": picture(), "a.txt": "x", "d/a.png": picture(), "d/a.txt": "y"}
    assert captions(read_manifest(write(tmp_path, {**files}))) == {"a.jpg": ("x",), "a.png": ("x",), "d/a.png": ("y",)}


def test_both_kinds_of_text_file_give_captions(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.png": picture(), "a.caption": "a sentence", "a.txt": "tag, tag"})
    assert captions(read_manifest(folder)) == {"a.png": ("tag, tag", "a sentence")}


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    files = {"a.png": picture(), "a.txt": "x", ".b.png": b"junk", ".git/c.png": b"junk", "._a.txt": b"\0"}
    assert captions(read_manifest(write(tmp_path, {**files}))) == {"a.png": ("x",)}


def test_orphan_text_files_and_unreadable_formats_are_counted(tmp_path: Path) -> None:
    files = {"a.png": picture(), "a.txt": "x", "readme.txt": "hello", "old.caption": "x", "phone.CR2": b"junk"}
    warnings = "\n".join(read_manifest(write(tmp_path, {**files})).warnings)
    assert "without an image of the same name (2)" in warnings and "not read" in warnings and "phone.CR2" in warnings


def test_an_image_without_text_and_an_empty_text_are_reported(tmp_path: Path) -> None:
    files = {"a.png": picture(), "a.txt": "x", "b.png": picture(), "c.png": picture(), "c.txt": " \n"}
    assert "without a caption (2): b.png, c.png" in mistakes(write(tmp_path, {**files}))


def test_damaged_images_are_all_named(tmp_path: Path) -> None:
    good = picture(kind="JPEG", size=(200, 200))
    files = {"a.jpg": good, "b.jpg": "<!DOCTYPE html>", "c.png": b"", "d.jpg": good[:100], "e.png": bytes(99)}
    texts = dict.fromkeys(("a.txt", "b.txt", "c.txt", "d.txt", "e.txt"), "x")
    message = mistakes(write(tmp_path, {**files, **texts}))
    assert "not usable images (4)" in message
    for word in ("HTML", "empty", "cut short", "zero bytes"):
        assert word in message


def test_a_pipe_named_jpg_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "a.txt")
    message = mistakes(write(tmp_path, {"a.png": picture(), "b.png": picture(), "pipe.txt": "x", "b.txt": "x"}))
    assert "pipe.jpg (not a regular file)" in message and "a.txt (not a regular file)" in message


def test_links_are_followed_but_loops_end_and_dangling_ones_are_reported(tmp_path: Path) -> None:
    write(tmp_path, {"data/a.png": picture(), "data/a.txt": "x", "elsewhere/b.png": picture(), "elsewhere/b.txt": "y"})
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "self").symlink_to("self")
    (tmp_path / "data" / "z").symlink_to(tmp_path / "elsewhere")
    manifest = read_manifest(str(tmp_path / "data"), follow_links=True)
    assert captions(manifest) == {"a.png": ("x",), "z/b.png": ("y",)}
    (tmp_path / "data" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "data" / "gone.txt").write_text("x")
    (tmp_path / "data" / "z").unlink()
    assert "do not exist (1): gone.png" in mistakes(str(tmp_path / "data"))


@pytest.mark.parametrize("name", ["a.txt", "a.png", "d", "metadata.jsonl"])
def test_links_that_lead_out_of_the_folder_are_refused_unless_they_are_allowed(name: str, tmp_path: Path) -> None:
    write(tmp_path, {"data/a.png": picture(), "data/a.txt": "x", "d/b.png": picture(), "d/b.txt": "y"})
    write(tmp_path, {"a.png": picture("blue"), "a.txt": "of another", "metadata.jsonl": listing(A)})
    link = tmp_path / "data" / name
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / name)
    assert re.search(rf"data.follow_links: links .*\(1\): {name}\. ", mistakes(str(tmp_path / "data")))
    assert read_manifest(str(tmp_path / "data"), follow_links=True).records
    with pytest.raises(ValueError, match="follow_links: links"):
        prepare(PrepConfig((str(tmp_path / "data"),), tmp_path / "prepared"))
    assert not (tmp_path / "prepared").exists()


def test_links_within_the_folder_to_it_and_within_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / "451f"
    write(tmp_path / "datasets--a--b" / "blobs", {"1": picture(), "2": "x"})
    snapshot.mkdir(parents=True)
    (snapshot / "a.png").symlink_to("../../blobs/1")
    (snapshot / "a.txt").symlink_to("../../blobs/2")
    (tmp_path / "way").symlink_to(snapshot)
    assert captions(read_manifest(str(tmp_path / "way"))) == {"a.png": ("x",)}
    (snapshot / "b.txt").symlink_to(tmp_path / "way")
    write(tmp_path, {"secret.txt": "s"})
    (snapshot / "c.txt").symlink_to(tmp_path / "secret.txt")
    assert "(1): c.txt" in mistakes(str(snapshot))


def test_a_linked_caption_beside_a_listed_image_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"secret.txt": "s", "data/a.png": picture(), "all.lst": "data/a.png"})
    (tmp_path / "data" / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match=r"follow_links: links.*a\.txt"):
        prepare(PrepConfig((str(tmp_path / "all.lst"),), tmp_path / "prepared"))


@pytest.mark.parametrize(
    "name", ["a b.png", "new\nline.png", "tab\t.png", "-dash.png", "#%[]*?.png", "dot..png", '"q".png']
)
def test_odd_names_are_read(tmp_path: Path, name: str) -> None:
    manifest = read_manifest(write(tmp_path, {name: picture(), name[:-4] + ".txt": "x"}))
    assert captions(manifest) == {name: ("x",)}
    assert manifest.source.read(name) == picture()


def test_names_that_are_not_utf8_are_refused_in_words_that_can_be_printed(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.png": picture(), "a.txt": "one", "b\udcff.png": picture(), "b\udcff.txt": "two"})
    message = mistakes(folder)
    assert "not UTF-8; rename them (2)" in message and "udcff" in message
    message.encode("utf-8")
