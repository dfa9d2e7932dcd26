import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from finetune.records.database import FILE, opened
from finetune.records.search import search
from finetune.records.update import take_in
from tests.support.drawn_folders import add_generated, make_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def records(runs: Path) -> Iterator[sqlite3.Connection]:
    with opened(runs / FILE) as records:
        take_in(records, runs)
        yield records


def num(records: sqlite3.Connection, *filters: str, words: str | None = None) -> int:
    return search(records, filters=filters, words=words).total


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        *((("step>=100",), 2 + 4 + 4), (("step < 100", "kind=preview"), 2), (("step=0",), 2 + 4 + 4)),
        *((("prompt~APPLE",), 2 + 6 + 4 + 1), (("prompt~CAFÉ", "kind=scored"), 6 + 4), (("run=ink/drawn",), 2)),
        *((("scores.style>0.57",), 2 + 4 + 4 + 4), (("scores.style.image>=0.7",), 1 + 1 + 4), (("scores.kid>0",), 0)),
        *((("guidance_scale=7.5",), 2), (("sampler!=Euler a", "seed=0", "kind=generated"), 0), (("width=32",), 26)),
        *((("settings.scheduler=EulerAncestralDiscreteScheduler",), 2), (("settings.width>=33",), 0)),
        *((("time>=2020", "adapters~ink.safetensors"), 2), (("strength=0.75",), 4 + 2), (("step!=100",), 16)),
    ],
)
def test_filters_of_any_field(records: sqlite3.Connection, filters: tuple[str, ...], expected: int) -> None:
    assert num(records, *filters) == expected


@pytest.mark.parametrize(
    ("given", "word"),
    [
        *(("step>=", "value"), ("step", "value"), ("stepp=1", "step"), ("step>=many", "number"), ("step~1", "number")),
        *(
            ("1=1", "field"),
            ("id=1", "field"),
            ("codes=1", "field"),
            ("scores=1", "scores.NAME"),
            ("seed=nan", "number"),
        ),
        *(("step) OR (1>0", "field"), ("scores.a b>1", "value"), ("scores.style.path=1", "field")),
    ],
)
def test_what_is_not_a_filter_is_refused(records: sqlite3.Connection, given: str, word: str) -> None:
    with pytest.raises(ValueError, match=r"^filter: .*" + word):
        num(records, given)


@pytest.mark.parametrize("value", ["'; DROP TABLE images; --", "x' OR '1'='1", '" OR 1=1', "%", "_", "?", "\0"])
def test_values_are_never_sql(records: sqlite3.Connection, value: str) -> None:
    assert num(records, f"prompt={value}") == 0
    assert num(records, f"settings.key={value}") == 0
    assert num(records) == 26


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        *(("apple", 13), ("Apple INK", 12), ("cafe", 2 + 6 + 4), ("haus*", 1), ("Häuschen", 1), ("apple night", 0)),
        *(("blurry", 2 + 2), ("appl", 0), ('ink" OR "night', 0), ("apple NOT ink", 0), ("prompt:apple", 0), ("1+1", 1)),
    ],
)
def test_words_are_searched_in_prompts(records: sqlite3.Connection, words: str, expected: int) -> None:
    assert num(records, words=words) == expected


@pytest.mark.parametrize("words", ["", " * ", '"'])
def test_a_search_without_words_is_refused(records: sqlite3.Connection, words: str) -> None:
    with pytest.raises(ValueError, match=r"^search: "):
        num(records, words=words)


def test_the_newest_come_first_and_are_counted_beyond_the_number(tmp_path: Path) -> None:
    add_generated(tmp_path / "drawn", "one", "two", "three")
    with opened(tmp_path / FILE) as records:
        take_in(records, tmp_path)
        found = search(records, num=2)
        assert found.total == 3 and len(found.rows) == 2
        times = [row["time"] for row in search(records).rows]
    assert times == sorted(times, reverse=True)


def test_similar_images_are_found_mirrored_smaller_and_cut(
    records: sqlite3.Connection, runs: Path, tmp_path: Path
) -> None:
    path = runs / "ink" / "scored" / "step_000100" / "prompt01_seed1.png"
    with Image.open(path) as opened_image:
        image = opened_image.convert("RGB").resize((320, 320))
    turned = {
        "same": image,
        "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "smaller": image.resize((40, 40)),
        "cut": image.crop((32, 32, 288, 288)),
    }
    for name, other in turned.items():
        other.save(tmp_path / f"{name}.jpg", quality=85)
        found = search(records, like=tmp_path / f"{name}.jpg").rows
        assert [row["path"] for row in found] == ["ink/scored/step_000100/prompt01_seed1.png"], name
        assert found[0]["difference"] <= 60
    assert search(records, like=tmp_path / "same.jpg", filters=["step=0"]).rows == []


def test_an_image_that_cannot_be_read_is_named(records: sqlite3.Connection, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    for name in ("text.png", "absent.png"):
        with pytest.raises(ValueError, match=rf"^like: .*{name}"):
            search(records, like=tmp_path / name)
