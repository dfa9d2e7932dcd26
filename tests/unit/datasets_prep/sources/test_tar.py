import tarfile
from pathlib import Path

import pytest

from finetune.data.listing import Findings
from tests.support.images import picture, write
from tests.unit.datasets_prep.sources.test_detect import FILES, archive, opened, read_all

RED, BLUE = picture("red"), picture("blue", size=(300, 300), kind="BMP")


def rejected(path: Path) -> dict[str, tuple[str, str]]:
    return {left.source: (left.reason, left.detail) for left in opened(path).listing(Findings()).rejected}


def test_all_files_of_a_key_belong_together(tmp_path: Path) -> None:
    files = {"001.seg.png": RED, "001.jpg": RED, "001.txt": "one", "001.json": '{"caption": "two", "width": 3}'}
    files |= {"002.jpg": RED, "002.cls": "7", "003.left.jpg": RED, "003.right.jpg": RED, "003.txt": "both"}
    files |= {"a.v1.jpg": RED, "a.v1.txt": "first", "a.v2.jpg": RED, "a.v2.txt": "second"}
    files |= {"b.jpg": RED, "b.json": '{"width": 3}'}
    found, notes = read_all(opened(archive(tmp_path / "s.tar", files)))
    captions = {name.removeprefix("s/"): captions for name, (_, captions) in found.items()}
    expected = {"001.jpg": ("one",), "003.left.jpg": ("both",), "003.right.jpg": ("both",)}
    expected |= {"a.v1.jpg": ("first",), "a.v2.jpg": ("second",)}
    assert captions == expected | dict.fromkeys(("001.seg.png", "002.jpg", "b.jpg", "b.json"), ())
    assert "several images" in notes and "numbers of classes" in notes


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_lead_nowhere_and_may_be_long(tmp_path: Path, form: int) -> None:
    names = ["/etc/x.png", "../up.png", "./here.png", "d/é.png"]
    names += ["n" * 150 + ".png"] if form != tarfile.USTAR_FORMAT else []
    path = archive(tmp_path / "s.tar", dict.fromkeys(names, RED), format=form)
    source = opened(path)
    found = source.listing(Findings())
    assert {item.source for item in found.items} == {f"s/{name.removeprefix('./')}" for name in names}
    assert all(source.read(item.source) == RED for item in found.items)
    assert sorted(tmp_path.iterdir()) == [path]


def test_what_is_not_a_file_of_its_own_is_rejected(tmp_path: Path) -> None:
    path = archive(tmp_path / "s.tar", {"a.png": RED, "b.png": BLUE, ".DS_Store": "x", "d/._b.png": "x"})
    with tarfile.open(path, "a") as tar:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            tar.addfile(info)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    archive(path, {"a.png": BLUE}, "a")
    links = dict.fromkeys(("s/link.png", "s/hard.png", "s/pipe"), "not_a_file")
    assert {name: reason for name, (reason, _) in rejected(path).items()} == links | {"s/a.png": "unreadable"}
    found, notes = read_all(opened(path))
    assert "hidden" in notes and {name: data for name, (data, _) in found.items()} == {"s/a.png": BLUE, "s/b.png": BLUE}


@pytest.mark.parametrize("lost", ["end mark", "data", "header"])
def test_of_a_truncated_archive_what_is_whole_is_used(tmp_path: Path, lost: str) -> None:
    path = archive(tmp_path / "s.tar", {"a.png": RED, "b.bmp": BLUE, "c.bmp": BLUE})
    data = path.read_bytes()
    start = data.index(b"c.bmp")
    end = start + 512 + (len(BLUE) + 511) // 512 * 512
    path.write_bytes(data[: {"end mark": end, "data": end - 50_000, "header": start + 100}[lost]])
    found, _ = read_all(opened(path))
    expected = {"s/a.png", "s/b.bmp"} | ({"s/c.bmp"} if lost == "end mark" else set())
    assert set(found) == expected
    assert bool(rejected(path)) == (lost != "end mark")
    assert all(reason == "truncated" for reason, _ in rejected(path).values())


def test_what_lies_behind_a_damaged_header_or_an_early_end_is_said_to_be_lost(tmp_path: Path) -> None:
    path = archive(tmp_path / "s.tar", {"a.png": RED, "b.bmp": BLUE})
    data = bytearray(path.read_bytes())
    start = data.index(b"b.bmp")
    data[start : start + 3] = b"xyz"
    path.write_bytes(data)
    assert set(read_all(opened(path))[0]) == {"s/a.png"}
    assert "header" in rejected(path)["s.tar"][1]
    first, second = archive(tmp_path / "1.tar", {"a.png": RED}), archive(tmp_path / "2.tar", {"b.png": RED})
    first.write_bytes(first.read_bytes() + second.read_bytes())
    assert "1.tar" in rejected(first)


def test_a_size_below_zero_ends_the_archive_instead_of_going_round_for_ever(tmp_path: Path) -> None:
    path = archive(tmp_path / "s.tar", {"a.png": RED, "b.png": RED})
    data = bytearray(path.read_bytes())
    start = data.index(b"b.png")
    data[start + 124 : start + 136] = (-1024).to_bytes(12, "big", signed=True)
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    path.write_bytes(data)
    assert set(read_all(opened(path))[0]) == {"s/a.png"}
    assert rejected(path)["s.tar"][0] == "truncated"


def test_what_is_not_an_archive_is_left_out_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path, {"s.tar": b"junk" * 1000, "empty.tar": b""})
    assert list(rejected(tmp_path / "s.tar")) == ["s.tar"]
    assert opened(tmp_path / "empty.tar").listing(Findings()).items == []


def test_a_folder_of_archives_may_hold_the_tables_that_come_with_them(tmp_path: Path) -> None:
    for number in (0, 1):
        archive(tmp_path / f"{number:05d}.tar", FILES)
        write(tmp_path, {f"{number:05d}_stats.json": "{}", f"{number:05d}.parquet": "x"})
    found, _ = read_all(opened(tmp_path))
    assert len(found) == 12 and "00001/red.png" in found
