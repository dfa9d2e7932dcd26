import io
import os
import pickle
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from datasets_prep.records import PrepSource
from datasets_prep.sources.detect import open_source
from finetune.data.captions.reading import CaptionReading
from finetune.data.listing import Findings
from tests.support.images import listing, picture, write
from tests.support.other_user import as_another_user

COLOURS = ("red", "green", "blue", "white", "black", "yellow")
PICTURES = {f"{colour}.png": picture(colour) for colour in COLOURS}
CAPTIONS = {f"{colour}.png": (f"a {colour} one", f"{colour} again") for colour in COLOURS}
FILES: dict[str, bytes | str] = {**PICTURES, **{f"{c}.txt": f"a {c} one\n{c} again\n" for c in COLOURS}}
IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def opened(
    *given: Path | str,
    column: str = "text",
    image: str = "image",
    output: str = "/nowhere/out",
    follow_links: bool = False,
) -> PrepSource:
    reading = CaptionReading(column, "alternatives", is_training=False)
    options = {"reading": reading, "image_column": image, "follow_links": follow_links}
    return pickle.loads(pickle.dumps(open_source(tuple(map(str, given)), output=Path(output), **options)))


def read_all(source: PrepSource) -> tuple[dict[str, tuple[bytes, tuple[str, ...]]], str]:
    """Read name -> bytes and captions of images, and the notes."""
    findings = Findings()
    names = [item.source for item in source.listing(findings).items]
    assert names == sorted(set(names), key=os.fsencode)
    entries = source.entries(names, findings)
    assert all(entry.file_name == name for name, entry in entries.items())
    return {name: (source.read(name), entry.captions) for name, entry in entries.items()}, "\n".join(findings.warnings)


def table(folder: Path, name: str = "part.parquet", group: int = 2, **columns: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = columns or {
        "image": pyarrow.array([{"bytes": data, "path": name} for name, data in PICTURES.items()], IMAGE),
        "text": [CAPTIONS[name][0] for name in PICTURES],
        "captions_alt": [[CAPTIONS[name][1]] for name in PICTURES],
    }
    parquet.write_table(pyarrow.table(columns), folder / name, row_group_size=group)
    return folder / name


def archive(path: Path, files: Mapping[str, bytes | str], mode: str = "w", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **options) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def saved(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": data, "path": name} for name, data in PICTURES.items()]
    columns = {"image": images, "text": [list(CAPTIONS[name]) for name in PICTURES]}
    datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).save_to_disk(str(folder))
    return folder


HALVES = [{name: FILES[name] for name in names} for names in (sorted(FILES)[:6], sorted(FILES)[6:])]
LIST = "# some\n\n" + "".join(f"raw/{name}\n" for name in [*PICTURES, *PICTURES])
KINDS: dict[str, Callable[[Path], Sequence[Path | str]]] = {
    "folder": lambda folder: [write(folder, FILES)],
    "two folders": lambda folder: [write(folder / str(number), half) for number, half in enumerate(HALVES)],
    "files": lambda folder: [Path(write(folder, FILES)) / name for name in PICTURES],
    "list": lambda folder: [Path(write(Path(write(folder / "raw", FILES)).parent, {"all.lst": LIST})) / "all.lst"],
    "parquet": lambda folder: [table(folder)],
    "tables": lambda folder: [write(table(folder / "set" / "data").parents[1], {"README.md": "x"})],
    "tar": lambda folder: [archive(folder / "part.tar", FILES)],
    "tars": lambda folder: [archive(folder / f"{number}.tar", half).parent for number, half in enumerate(HALVES)][:1],
    "saved": lambda folder: [saved(folder / "rows")],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_images_and_captions_come_out_of_every_kind(tmp_path: Path, kind: str) -> None:
    found, notes = read_all(opened(*KINDS[kind](tmp_path / "set")))
    assert notes == ""
    told = {name.rpartition("/")[2].rpartition("-")[2]: value for name, value in found.items()}
    assert told == {name: (PICTURES[name], CAPTIONS[name]) for name in PICTURES}


def test_names_say_where_an_image_is(tmp_path: Path) -> None:
    assert "part/00000002-blue.png" in read_all(opened(table(tmp_path)))[0]
    assert "part/blue.png" in read_all(opened(archive(tmp_path / "part.tar", FILES)))[0]
    folders = [write(tmp_path / name, {"x.png": picture()}) for name in ("cats", "dogs")]
    assert list(read_all(opened(*folders))[0]) == ["cats/x.png", "dogs/x.png"]
    assert opened(folders[0]).name == "cats" and opened(*folders).name == tmp_path.name


@pytest.mark.parametrize("give", ["file", "row", "member"])
def test_a_changed_image_has_another_stamp(tmp_path: Path, give: str) -> None:
    def stamps(colour: str) -> dict[str, tuple[int, ...]]:
        data = picture(colour, size=(len(colour), 9))
        if give == "file":
            given = write(tmp_path / "raw", {"a.png": data})
        elif give == "row":
            given = table(tmp_path, image=[data], text=["x"])
        else:
            given = archive(tmp_path / "part.tar", {"a.png": data})
        return {item.source: item.stamp for item in opened(given).listing(Findings()).items}

    first, other = stamps("red"), stamps("yellow")
    assert first.keys() == other.keys() and first != other


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["nothing"], "there is no nothing"),
        (["nothing.parquet"], "there is no nothing.parquet"),
        (["raw", "part.tar"], "different kinds"),
        (["part.tgz"], "compressed"),
        (["raw/metadata.jsonl"], "Give its folder"),
        (["raw", "other/raw"], "the same name"),
        (["raw", "raw/d"], "is in .*, which is given too"),
        (["empty.lst"], "names no file"),
        (["junk.parquet"], "not a whole Parquet file"),
        (["paths.parquet"], "holds string"),
        (["other.parquet"], "is not a column"),
    ],
)
def test_what_cannot_be_a_source_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"raw/a.png": "x", "raw/d/a.png": "x", "other/raw/a.png": "x", "part.tgz": "x", "raw/metadata.jsonl": "x"}
    write(tmp_path, {**files, "empty.lst": "# none", "junk.parquet": "PAR1"})
    archive(tmp_path / "part.tar", FILES)
    table(tmp_path, "paths.parquet", image=["a.png"], text=["x"])
    table(tmp_path, "other.parquet", picture=[b"x"], text=["x"])
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        opened(*given)


@pytest.mark.parametrize(
    ("given", "output"),
    [("raw", "raw/out"), ("raw", "raw"), ("raw/d", "raw"), ("raw/d/a.png", "raw"), ("all.txt", "raw")],
)
def test_source_and_output_in_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"raw/d/a.png": "x", "all.txt": "raw/d/a.png"})
    with pytest.raises(ValueError, match="contain each other"):
        opened(given, output=output)


def test_the_output_is_not_entered_where_a_link_leads_to_it(tmp_path: Path) -> None:
    write(tmp_path, {"raw/a.png": "x", "out/images/b.png": "x"})
    (tmp_path / "raw" / "link").symlink_to(tmp_path)
    found, _ = read_all(opened(tmp_path / "raw", output=str(tmp_path / "out"), follow_links=True))
    assert list(found) == ["a.png"]


def test_files_that_are_missing_or_no_files_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": "x", "d/b.png": "x", "all.txt": "a.png\ngone.png\nd\n./a.png\n"})
    os.mkfifo(tmp_path / "pipe.png")
    found = opened(tmp_path / "all.txt", tmp_path / "pipe.png").listing(Findings())
    assert [item.source for item in found.items] == ["a.png"]
    reasons = {left.source: left.reason for left in found.rejected}
    assert reasons == {"d": "not_a_file", "gone.png": "unreadable", str(tmp_path / "pipe.png"): "not_a_file"}


def test_a_caption_beside_a_listed_file_changes_its_stamp(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": "x", "a.json": '"one"'})
    source = opened(tmp_path / "a.png", tmp_path / "a.png")
    before = source.listing(Findings()).items
    (tmp_path / "a.json").write_text('"another"')
    assert source.listing(Findings()).items != before
    assert [captions for _, captions in read_all(source)[0].values()] == [("another",)]


def test_a_listing_in_a_folder_of_several_counts_for_its_own(tmp_path: Path) -> None:
    row = {"file_name": "x.png", "text": "a cat", "weight": 2, "split": "validation"}
    cats = write(tmp_path / "cats", {"x.png": "x", "metadata.jsonl": listing(row)})
    source = opened(cats, write(tmp_path / "dogs", {"x.png": "x"}))
    entries = source.entries([item.source for item in source.listing(Findings()).items], Findings())
    assert [(name, entry.captions, entry.weight, entry.split) for name, entry in entries.items()] == [
        ("cats/x.png", ("a cat",), 2.0, "validation"),
        ("dogs/x.png", (), 1.0, None),
    ]


def test_a_closed_folder_is_named(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0)
    with as_another_user(), pytest.raises(ValueError, match=r"closed cannot be read \(Permission denied\)"):
        opened(closed)
