"""A preparation loses nothing, touches nothing, and gives the same bytes again."""

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from datasets_prep.config import PrepConfig
from datasets_prep.pipeline import prepare
from finetune.command_line import parse
from finetune.data.manifest import read_manifest
from tests.unit.data.files import picture, write

RED, BLUE, GREEN = (picture(colour, (80, 70)) for colour in ("red", "blue", "green"))
FILES: dict[str, bytes | str] = {
    "a_red_thing.png": RED,
    "copies/b.png": RED,
    "copies/b.txt": "a red picture",
    "copies/c.png": RED,
    "copies/c.txt": "ein Rot\na red picture",
    "test/blue_2.png": BLUE,
    "test/blue_2.jpg": BLUE[:-30],
    "empty.png": "",
    "readme.md": "# notes",
}


@pytest.fixture
def config(tmp_path: Path) -> PrepConfig:
    return PrepConfig(Path(write(tmp_path / "raw", FILES)), tmp_path / "prepared")


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the marker, which holds times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".datasets_prep.json"
    }


def test_every_file_ends_once_in_one_list_and_the_source_stays(config: PrepConfig) -> None:
    before = contents(config.source)
    outcome = prepare(config)
    kept, left_out = rows(config.output, "metadata.jsonl"), rows(config.output, "rejected.jsonl")
    assert sorted(row["source"] for row in kept + left_out) == sorted(
        name for name in FILES if not name.endswith(".txt")
    )
    assert {row["source"]: row["reason"] for row in left_out} == {
        "a_red_thing.png": "exact_duplicate",
        "copies/c.png": "exact_duplicate",
        "empty.png": "empty_file",
        "readme.md": "not_an_image",
        "test/blue_2.jpg": "truncated",
    }
    assert (outcome.num_pictures, outcome.rejected["exact_duplicate"], outcome.is_new) == (2, 2, True)
    assert contents(config.source) == before
    assert [path.name for path in config.output.parent.iterdir() if path.name.startswith(".")] == []


def test_copies_name_their_keeper_and_leave_it_their_captions(config: PrepConfig) -> None:
    prepare(config)
    keeper = rows(config.output, "metadata.jsonl")[0]
    assert (keeper["source"], keeper["text"], keeper["captions_alt"]) == ("copies/b.png", "a red picture", ["ein Rot"])
    assert (keeper["width"], keeper["height"]) == (80, 70)
    assert (config.output / keeper["file_name"]).read_bytes() == RED
    first = rows(config.output, "rejected.jsonl")[0]
    assert (first["duplicate_of"], first["score"]) == ("copies/b.png", 1.0)


def test_training_reads_the_result(config: PrepConfig) -> None:
    prepare(replace(config, trigger="ink style"))
    manifest = read_manifest(str(config.output))
    captions = {record.captions for record in manifest.records}
    assert captions == {("a red picture, ink style", "ein Rot, ink style"), ("blue, ink style",)}
    assert manifest.warnings == ()


def test_the_bytes_do_not_depend_on_the_order_of_listing(config: PrepConfig, tmp_path: Path) -> None:
    prepare(config)
    other = PrepConfig(Path(write(tmp_path / "other" / "raw", dict(reversed(FILES.items())))), tmp_path / "again")
    prepare(other)
    assert contents(config.output) == contents(other.output)


def test_the_same_again_does_nothing_and_a_change_makes_it_anew(config: PrepConfig) -> None:
    first = prepare(config)
    written = os.stat(config.output)
    again = prepare(config)
    assert (again.is_new, again.num_pictures, again.rejected) == (False, first.num_pictures, first.rejected)
    assert os.stat(config.output).st_ino == written.st_ino
    (config.source / "new_one.png").write_bytes(GREEN)
    assert prepare(config).num_pictures == 3
    (config.source / "copies" / "b.txt").write_text("changed")
    assert prepare(config).is_new and rows(config.output, "metadata.jsonl")[0]["text"] == "changed"
    assert prepare(replace(config, trigger="ink")).is_new
    next((config.output / "images").iterdir()).unlink()
    assert prepare(replace(config, trigger="ink")).is_new


def test_what_this_command_did_not_write_is_not_replaced(config: PrepConfig) -> None:
    config.output.mkdir()
    (config.output / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not written by this command"):
        prepare(config)
    assert contents(config.output) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("name", ["metadata.jsonl", "notes.txt"])
def test_a_result_that_was_edited_is_not_replaced(config: PrepConfig, name: str) -> None:
    prepare(config)
    with (config.output / name).open("a") as file:
        file.write("\n")
    assert not prepare(config).is_new
    with pytest.raises(ValueError, match=name):
        prepare(replace(config, trigger="ink"))


@pytest.mark.parametrize(("source", "output"), [("raw", "raw/prepared"), ("raw", "raw"), ("raw/copies", "raw")])
def test_source_and_output_in_each_other_are_refused(config: PrepConfig, source: str, output: str) -> None:
    before = contents(config.source)
    top = config.source.parent
    with pytest.raises(ValueError, match="lie in each other"):
        prepare(PrepConfig(top / source, top / output))
    assert contents(config.source) == before


def test_an_output_that_a_link_leads_to_is_no_input(config: PrepConfig) -> None:
    (config.source / "link").symlink_to(config.output.parent)
    first = prepare(config)
    assert not prepare(config).is_new and first.num_pictures == 2


def test_what_a_killed_run_left_is_put_right(config: PrepConfig) -> None:
    prepare(config)
    partial = config.output.with_name(".prepared.partial")
    (partial / "new" / "images").mkdir(parents=True)
    config.output.rename(partial / "old")
    assert not prepare(config).is_new
    assert not partial.exists()


def test_two_at_once_are_refused(config: PrepConfig) -> None:
    partial = config.output.with_name(".prepared.partial")
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another preparation"):
        prepare(config)
    os.close(lock)
    assert prepare(config).is_new


def test_a_source_without_pictures_is_refused_with_the_reasons(tmp_path: Path) -> None:
    source = Path(write(tmp_path / "raw", {"a.png": "", "b.jpg": "text"}))
    with pytest.raises(ValueError, match=r"empty_file 1, not_an_image 1"):
        prepare(PrepConfig(source, tmp_path / "prepared"))
    assert os.listdir(tmp_path) == ["raw"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        prepare(PrepConfig(tmp_path / "nothing", tmp_path / "prepared"))


def test_mistakes_in_options_are_all_named() -> None:
    with pytest.raises(ValueError) as caught:
        parse(PrepConfig, ["--source", "raw", "--ouput", "x", "--min_side", "0"], program="prep")
    message = str(caught.value)
    assert "Did you mean output?" in message and "output: missing" in message
    assert "min_side: got 0" in message
