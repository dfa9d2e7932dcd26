from pathlib import Path

import numpy as np

from datasets_prep.measure.columns import read_measured
from datasets_prep.measure.image import SCORES
from datasets_prep.measure.store import Store, as_keys, row_key, write_part
from datasets_prep.records import Item, Measured, Rejected


def result(name: str, number: int) -> Measured:
    codes = np.arange(48, dtype=np.uint64).reshape(12, 4) + number
    scores = dict.fromkeys(SCORES, float(number))
    sha256 = bytes([number, 0]) * 16  # ends in zeros, which fixed-width strings of numpy drop
    return Measured(name, sha256, sha256, 10, 20 + number, 30, ".png", codes, scores, ("a note",), None)


def keys_of(*names: str, salt: str = "1") -> np.ndarray:
    return as_keys([row_key(salt, Item(name, (1, 2))) for name in names])


def test_rows_come_back_in_the_order_asked_for_from_several_parts(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        write_part(tmp_path, [(row_key("1", Item(name, (1, 2))), result(name, number))])
    store = Store(tmp_path)
    places = store.places(keys_of("c", "x", "a"))
    assert (places >= 0).tolist() == [True, False, True]
    pictures = read_measured(store.parts, places[places >= 0], ["c", "a"])
    assert pictures.width.tolist() == [22, 20]
    assert pictures.hex(0) == "0200" * 16
    assert pictures.score("detail").tolist() == [2.0, 0.0]
    assert pictures.notes == {0: ("a note",), 1: ("a note",)} and pictures.captions == {}
    assert pictures.suffixes[pictures.suffix[0]] == ".png"


def test_codes_are_read_from_disk_by_kind_by_image_and_by_choice(tmp_path: Path) -> None:
    names = [f"{number:02d}" for number in range(11)]
    for some in (names[3::2], names[::2], names[1:2]):  # parts in another order than the images
        write_part(tmp_path, [(row_key("1", Item(name, (1, 2))), result(name, int(name))) for name in some])
    store = Store(tmp_path)
    codes = read_measured(store.parts, store.places(keys_of(*names)), names).codes(tmp_path)
    whole = np.arange(48, dtype=np.uint64).reshape(12, 4) + np.arange(11, dtype=np.uint64)[:, None, None]
    some = np.array([7, 0, 10])
    assert codes.shape == whole.shape
    assert np.array_equal(codes[:, 8], whole[:, 8])
    assert np.array_equal(codes[some], whole[some])
    assert all(np.array_equal(codes[number], whole[number]) for number in range(11))
    codes.close()
    assert {path.suffix for path in tmp_path.iterdir()} == {".arrow"}


def test_another_version_size_or_time_is_not_found(tmp_path: Path) -> None:
    write_part(tmp_path, [(row_key("1", Item("a", (1, 2))), result("a", 1))])
    store = Store(tmp_path)
    others = [row_key("2", Item("a", (1, 2))), row_key("1", Item("a", (1, 3))), row_key("1", Item("b", (1, 2)))]
    assert store.places(as_keys(others)).tolist() == [-1, -1, -1]


def test_reasons_are_kept_and_the_same_rows_make_one_file(tmp_path: Path) -> None:
    rows = [(row_key("1", Item("a", (1, 2))), Rejected("a", "truncated", "cut short"))]
    write_part(tmp_path, rows)
    write_part(tmp_path, rows)
    assert len(list(tmp_path.iterdir())) == 1
    [(places, table)] = Store(tmp_path).parts.rows(np.array([0]), ["reason", "detail"])
    assert places.tolist() == [0] and table.to_pylist() == [{"reason": "truncated", "detail": "cut short"}]


def test_an_empty_store_has_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.places(keys_of("a")).tolist() == [-1]
    assert len(read_measured(store.parts, np.zeros(0, int), [])) == 0


def test_a_key_with_zeros_at_its_end_is_found(tmp_path: Path) -> None:
    keys = [bytes(15 * [7]) + b"\0", bytes(16), b"\0" + bytes(15 * [9])]
    write_part(tmp_path, [(key, result("a", number)) for number, key in enumerate(keys)])
    assert sorted(Store(tmp_path).places(as_keys(keys)).tolist()) == [0, 1, 2]
