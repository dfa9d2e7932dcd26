"""Every kind of file is either a usable picture or has its reason."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from datasets_prep.scan import Picture, Rejected, take, walk
from finetune.data.entries import Findings
from tests.unit.data.files import encoded, gradient, picture, png, write

PHOTO = encoded(gradient(200, 100), "JPEG")
WEBP = encoded(gradient(200, 100), "WEBP")
PNG = encoded(gradient(200, 100))


def taken(folder: Path, content: bytes, name: str = "a.jpg") -> Picture | Rejected:
    (folder / "source").mkdir()
    (folder / "images").mkdir()
    (folder / "source" / name).write_bytes(content)
    return take(str(folder / "source"), name, str(folder), 64)


@pytest.mark.parametrize(
    ("reason", "content", "name"),
    [
        ("empty_file", b"", "a.jpg"),
        ("not_an_image", b"<html>not found</html>", "a.jpg"),
        ("not_an_image", bytes(5000), "a.png"),
        ("not_an_image", b"some notes", "notes.txt"),
        ("unsupported_format", b"\0\0\0\x18ftypheic" + bytes(100), "a.jpg"),
        ("unsupported_format", b"8BPS" + bytes(100), "a.PSD"),
        ("truncated", PHOTO[: len(PHOTO) // 2], "a.jpg"),
        ("truncated", PHOTO[:-2], "a.jpg"),
        ("truncated", PNG[: len(PNG) * 95 // 100], "a.png"),
        ("truncated", WEBP[: len(WEBP) // 2], "a.webp"),
        ("decode_error", PNG[:100] + bytes(10) + PNG[110:], "a.png"),
        ("too_many_pixels", png(20_000, 20_000, 8, 0, b""), "a.png"),
        ("too_small", picture(size=(300, 63)), "a.png"),
    ],
)
def test_what_is_no_usable_picture_has_its_reason(tmp_path: Path, reason: str, content: bytes, name: str) -> None:
    result = taken(tmp_path, content, name)
    assert isinstance(result, Rejected)
    assert (result.source, result.reason, result.duplicate_of, result.score) == (name, reason, None, None)
    assert result.detail
    assert not any((tmp_path / "images").iterdir())


def test_a_picture_is_copied_as_it_is_and_named_by_its_content(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(gradient(200, 100), "JPEG", exif=exif)
    result = taken(tmp_path, content, "test photo.PNG")
    assert isinstance(result, Picture)
    assert (result.width, result.height, result.suffix) == (100, 200, ".jpg")
    assert (tmp_path / result.file_name).read_bytes() == content


def walked(folder: Path) -> tuple[list[str], Mapping[str, str], Findings]:
    findings = Findings()
    items, rejected = walk(str(folder), (), findings)
    return [item.source for item in items], {result.source: result.reason for result in rejected}, findings


def test_walking_ends_and_gives_every_file_once(tmp_path: Path) -> None:
    names = ["b.png", "a/c.png", "a/x y\n'.png", "a.png"]
    write(tmp_path, dict.fromkeys(names, "x") | {".hidden/d.png": "x"})
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "0link").symlink_to(tmp_path / "a")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / os.fsdecode(b"\xe9.png")).write_bytes(b"x")
    sources, rejected, findings = walked(tmp_path)
    assert sources == ["a.png", "a/c.png", "a/x y\n'.png", "b.png"]
    assert rejected == {
        "gone": "unreadable",
        "self": "unreadable",
        "pipe.jpg": "not_a_file",
        "\udce9.png": "unreadable",
    }
    assert "hidden" in findings.warnings[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_listed_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, {"closed/a.png": "x", "b.png": "x"})
    (tmp_path / "closed").chmod(0)
    sources, rejected, _ = walked(tmp_path)
    (tmp_path / "closed").chmod(0o700)
    assert sources == ["b.png"] and rejected == {"closed": "unreadable"}
