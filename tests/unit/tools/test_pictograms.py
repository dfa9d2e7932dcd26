"""Recoloured and moved pictograms, with captions of what they show."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.tools.test_colours import pictogram
from tools.colours import HUES
from tools.pictograms import PictogramConfig, moved, variants, write


def folder_of(root: Path, captions: dict[str, str]) -> Path:
    root.mkdir()
    rows = []
    for number, (caption, colour) in enumerate(captions.items()):
        pictogram(colour).save(root / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "text": caption}))
    (root / "metadata.jsonl").write_text("\n".join(rows))
    return root


def test_a_moved_image_stays_whole_on_white() -> None:
    for seed in range(20):
        copy = np.asarray(moved(pictogram("red"), random.Random(seed)))
        assert copy.shape == (64, 64, 3)
        border = np.concatenate([copy[0], copy[-1], copy[:, 0], copy[:, -1]])
        assert border.min() == 255
        assert (copy[..., 1] < 100).sum() > 0.5 * (np.asarray(pictogram("red"))[..., 1] < 100).sum()


def test_captions_vary_but_the_first_is_the_given_one() -> None:
    found = variants("alarm clock", "red", random.Random(0))
    assert found == ("alarm clock", "red alarm clock", "clock alarm")
    assert variants("car", None, random.Random(0)) == ("car",)
    assert variants("red apple", "red", random.Random(0)) == ("red apple", "apple red")


def test_the_set_is_a_function_of_its_source_and_loads_as_one(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", {"face": "yellow", "red apple": "red"})
    before = {path: path.read_bytes() for path in source.iterdir()}
    count = write(PictogramConfig(source, tmp_path / "one"))
    assert write(PictogramConfig(source, tmp_path / "two")) == count == 2 * (1 + 1 + 3)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    rows = {row["file_name"]: row for row in map(json.loads, (tmp_path / "one" / "metadata.jsonl").open())}
    assert rows["0.png"]["text"] == "face" and rows["0.png"]["repeats"] == 3
    assert (np.asarray(Image.open(tmp_path / "one" / "0.png")) == np.asarray(pictogram("yellow"))).all()
    for name in rows:
        stem, _, colour = Path(name).stem.partition("_")
        if colour in HUES:
            assert rows[name]["text"] == f"{colour} {'face' if stem == '0' else 'apple'}"
    assert before == {path: path.read_bytes() for path in source.iterdir()}
    with pytest.raises(ValueError, match="exists"):
        write(PictogramConfig(source, tmp_path / "one"))


def test_a_set_that_cannot_be_finished_is_not_there(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", {"face": "yellow", "apple": "red"})
    (source / "1.png").write_bytes((source / "0.png").read_bytes()[:60])
    with pytest.raises((ValueError, OSError)):
        write(PictogramConfig(source, tmp_path / "set"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_names_that_would_meet_in_one_folder_are_refused(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", {"face": "yellow", "apple": "red"})
    (source / "more").mkdir()
    (source / "1.png").rename(source / "more" / "0.png")
    listing = source / "metadata.jsonl"
    listing.write_text(listing.read_text().replace("1.png", "more/0.png"))
    with pytest.raises(ValueError, match="1 names belong to several images in it, 0"):
        write(PictogramConfig(source, tmp_path / "set"))


def test_looks_for_an_autoencoder_stand_on_other_paper(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", {"face": "yellow"})
    assert write(PictogramConfig(source, tmp_path / "looks", looks=True)) == 5
    corners = {path.stem: np.asarray(Image.open(path))[0, 0] for path in (tmp_path / "looks").glob("*.png")}
    assert set(corners) == {"0", "0_paper", "0_lines", "0_solid", "0_mixed"}
    assert corners["0"].min() == 255 > corners["0_paper"].min()
