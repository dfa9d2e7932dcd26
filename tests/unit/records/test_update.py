import json
import os
import shutil
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from finetune.records import database
from finetune.records.database import COLUMNS, FILE, HIDDEN, opened, opened_to_read
from finetune.records.search import search
from finetune.records.update import Changes, read_rows, rebuild_records, take_in, update_records
from finetune.sampling.metadata import OWN_CHUNK, save_png
from tests.support.drawn_folders import CONFIG, add_generated, add_previews, add_scored, make_runs, score
from tests.support.images import drawn


def refused(warning: str) -> None:
    raise AssertionError(warning)


def updated(folder: Path) -> Changes:
    with opened(folder / FILE) as records:
        return take_in(records, folder)


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    with opened_to_read(folder / FILE) as records:
        return read_rows(records)


def found(folder: Path, words: str) -> list[str]:
    with opened_to_read(folder / FILE) as records:
        return sorted(row["path"] for row in search(records, words=words).rows)


def test_images_of_every_kind_are_recorded_with_what_is_known_of_them(tmp_path: Path) -> None:
    make_runs(tmp_path)
    assert updated(tmp_path).num_added == 4 + 12 + 8 + 2
    known = rows(tmp_path)
    preview = known["ink/previews/step_000100_prompt01_seed5.png"]
    expected = {"run": "ink", "kind": "preview", "step": 100, "prompt": "a café at night", "seed": 5, "width": 32}
    expected |= {"num_inference_steps": 8, "guidance_scale": 3.0, "base_model": "models/base", "adapters": "[]"}
    assert expected.items() <= preview.items()
    assert known["ink/previews/step_000100_prompt00_seed0.png"]["negative_prompt"] == "blurry"
    assert known["ink/previews/step_000000_prompt00_seed0.png"]["num_inference_steps"] == 20
    assert known["ink/previews/step_000000_prompt00_seed0.png"]["target"] == "base model"
    scored = known["ink/scored/step_000100/prompt01_seed1.png"]
    expected = {"kind": "scored", "step": 100, "target": "ink-100", "prompt": "a café at night", "seed": 1}
    assert expected.items() <= scored.items() and scored["base_model"] == "models/base"
    other = known["evaluated/images/target-0123456789-89abcdef/prompt00_seed0.png"]
    assert (other["run"], other["step"], other["target"]) == ("evaluated", 40, "ink-40")
    drawn_image = known["ink/drawn/image_000.png"]
    expected = {"run": "ink/drawn", "kind": "generated", "prompt": "=1+1 apple", "negative_prompt": "blurry"}
    expected |= {"seed": 0, "sampler": "Euler a", "strength": 0.75, "base_model": "models/base.safetensors"}
    assert expected.items() <= drawn_image.items()
    assert json.loads(drawn_image["adapters"])[0]["name"] == "ink.safetensors"
    assert drawn_image["time"].startswith("20") and drawn_image["time"].endswith("Z")


def test_scores_are_the_checkpoints_and_the_images_own(tmp_path: Path) -> None:
    updated(make_runs(tmp_path))
    known = rows(tmp_path)
    for name, own in (("scored/step_000100/prompt01_seed1", 0.7), ("scored/step_000100/prompt01_seed0", 0.5)):
        ((score, *numbers),) = known[f"ink/{name}.png"]["scores"]
        assert score == "style" and numbers == pytest.approx([0.575, 0.325, 0.825, own])
    assert known["ink/previews/step_000100_prompt00_seed0.png"]["scores"][0][1:] == (*numbers[:3], None)
    assert known["ink/scored/base/prompt00_seed0.png"]["scores"] == []
    strength = known["ink/scored/strengths/step_000100-0.75/prompt00_seed0.png"]
    assert strength["strength"] == 0.75 and strength["scores"][0][1] == pytest.approx(0.9)


def test_images_at_every_strength_are_those_of_their_step(tmp_path: Path) -> None:
    places = {
        "scored/step_000100": 100,
        "scored/step_000100/strength_0.50": 100,
        "scored/step_000100/strength_0.75": 100,
    }
    add_scored(tmp_path / "ink", {"scored/base": None, **places, "scored/strengths/step_000100-0.50": 100})
    (tmp_path / "ink" / "config.yaml").write_text(CONFIG)
    rows_at = [{"strength": 0.5, "scores": {"style": score([[0.2]])}}]
    (tmp_path / "ink" / "best.json").write_text(json.dumps({"step": 100, "strengths": {"rows": rows_at}}))
    updated(tmp_path)
    known = {path.removeprefix("ink/scored/"): row for path, row in rows(tmp_path).items()}
    assert len(known) == 5 * 4
    for place, strength, style in (
        *(("base", None, None), ("step_000100", None, 0.575), ("step_000100/strength_0.50", 0.5, 0.2)),
        *(("step_000100/strength_0.75", 0.75, None), ("strengths/step_000100-0.50", 0.5, 0.2)),
    ):
        row = known[f"{place}/prompt00_seed0.png"]
        assert row["strength"] == strength and row["step"] == (0 if place == "base" else 100), place
        assert [value for _, value, *_ in row["scores"]] == ([] if style is None else [pytest.approx(style)]), place
        assert row["num_inference_steps"] == 20 and row["base_model"] == "models/base"


def test_equal_pixels_have_equal_hashes_whatever_the_file_says(tmp_path: Path) -> None:
    add_generated(tmp_path / "one", "a cat")
    add_generated(tmp_path / "two", "a dog")
    drawn(900, (32, 16)).save(tmp_path / "two" / "image_001.png")
    (tmp_path / "two" / "generated.jsonl").open("a").write('{"file_name": "image_001.png"}\n')
    updated(tmp_path)
    known = rows(tmp_path)
    one, two, three = (
        known[name]["sha256"] for name in ("one/image_000.png", "two/image_000.png", "two/image_001.png")
    )
    assert one == two != three


def test_grown_records_equal_rebuilt_ones(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "ink", tmp_path / "other"
    add_previews(run, 0)
    update_records(tmp_path, run, refused)
    add_previews(run, 0, 100)
    add_previews(elsewhere, 0, 50)
    update_records(tmp_path, run, refused)
    update_records(tmp_path, elsewhere, refused)
    add_scored(run, {"scored/base": None, "scored/step_000100": 100})
    update_records(tmp_path, run, refused)
    add_scored(run, {"scored/base": None, "scored/step_000100": 100}, start=0.1)
    drawn(3, (48, 32)).save(run / "previews" / "step_000000_prompt00_seed0.png")
    (elsewhere / "previews" / "step_000050_prompt00_seed0.png").unlink()
    update_records(tmp_path, run, refused)
    update_records(tmp_path, elsewhere, refused)
    grown, words = rows(tmp_path), found(tmp_path, "cafe")
    assert len(grown) == 4 + 8 + 3 and grown["ink/previews/step_000000_prompt00_seed0.png"]["width"] == 48
    assert grown["ink/scored/base/prompt00_seed0.png"]["prompt"] == "a red apple, ink style" and len(words) == 8
    (tmp_path / FILE).unlink()
    rebuild_records(tmp_path)
    assert rows(tmp_path) == grown and found(tmp_path, "cafe") == words
    rebuild_records(tmp_path)  # over what is there
    assert rows(tmp_path) == grown and found(tmp_path, "cafe") == words
    assert updated(tmp_path) == Changes()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [FILE]


def test_a_run_that_was_deleted_leaves_the_records(tmp_path: Path) -> None:
    updated(make_runs(tmp_path))
    shutil.rmtree(tmp_path / "evaluated")
    assert updated(tmp_path) == Changes(num_removed=8)
    assert {row["run"] for row in rows(tmp_path).values()} == {"ink", "ink/drawn"}
    with opened_to_read(tmp_path / FILE) as records:
        paths = {path for (path,) in records.execute("SELECT DISTINCT path FROM scores")}
    assert paths and not any(path.startswith("evaluated") for path in paths)


def test_the_update_of_a_run_leaves_others_alone(tmp_path: Path) -> None:
    add_previews(tmp_path / "ink", 0)
    add_previews(tmp_path / "ink2", 0)
    updated(tmp_path)
    shutil.rmtree(tmp_path / "ink2")
    shutil.rmtree(tmp_path / "ink" / "previews")
    update_records(tmp_path, tmp_path / "ink", refused)
    assert {row["run"] for row in rows(tmp_path).values()} == {"ink2"}


def test_a_known_file_is_read_once_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    add_previews(tmp_path / "ink", 0)
    updated(tmp_path)
    path = tmp_path / "ink" / "previews" / "step_000000_prompt00_seed0.png"
    status = path.stat()
    path.write_bytes(b"\0" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert updated(tmp_path) == Changes()
    changes, _ = rebuild_records(tmp_path)
    assert len(rows(tmp_path)) == 1 and path.name in changes.unreadable[0]
    warnings: list[str] = []
    update_records(tmp_path, tmp_path / "ink", warnings.append)
    assert len(warnings) == 1 and path.name in warnings[0]


def test_runs_that_end_at_once_all_get_in(tmp_path: Path) -> None:
    names = [f"run{number}" for number in range(8)]
    for name in names:
        add_previews(tmp_path / name, 0, 10)
    barrier = threading.Barrier(len(names))

    def end(name: str) -> None:
        barrier.wait()
        update_records(tmp_path, tmp_path / name, warnings.append)

    warnings: list[str] = []
    threads = [threading.Thread(target=end, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not warnings
    grown = rows(tmp_path)
    assert len(grown) == 32
    rebuild_records(tmp_path)
    assert rows(tmp_path) == grown


def test_a_locked_file_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.05)
    add_previews(tmp_path / "ink", 0)
    warnings: list[str] = []
    with sqlite3.connect(tmp_path / FILE, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        update_records(tmp_path, tmp_path / "ink", warnings.append)
        other.execute("ROLLBACK")
    other.close()
    assert len(warnings) == 1 and "in use" in warnings[0]
    update_records(tmp_path, tmp_path / "ink", refused)
    assert len(rows(tmp_path)) == 2


@pytest.mark.parametrize("place", [0, 4096])
def test_a_damaged_file_is_one_warning_and_is_kept_when_it_is_rebuilt(tmp_path: Path, place: int) -> None:
    make_runs(tmp_path)
    updated(tmp_path)
    whole = rows(tmp_path)
    data = bytearray((tmp_path / FILE).read_bytes())
    data[place : place + 3000] = b"\xa5" * 3000
    (tmp_path / FILE).write_bytes(data)
    drawn(5).save(tmp_path / "ink" / "previews" / "step_000100_prompt00_seed0.png")
    warnings: list[str] = []
    update_records(tmp_path, tmp_path / "ink", warnings.append)
    assert len(warnings) == 1 and "--rebuild" in warnings[0]
    drawn(100_001, (32, 32)).save(tmp_path / "ink" / "previews" / "step_000100_prompt00_seed0.png")
    _, aside = rebuild_records(tmp_path)
    assert aside is not None and aside.read_bytes() == bytes(data)
    assert set(rows(tmp_path)) == set(whole)


def test_the_database_of_another_program_is_not_written_to(tmp_path: Path) -> None:
    add_previews(tmp_path / "ink", 0)
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("CREATE TABLE mine (text)")
    other.close()
    data = (tmp_path / FILE).read_bytes()
    warnings: list[str] = []
    update_records(tmp_path, tmp_path / "ink", warnings.append)
    assert len(warnings) == 1 and "another program" in warnings[0]
    with pytest.raises(ValueError, match="another program"):
        rebuild_records(tmp_path)
    assert (tmp_path / FILE).read_bytes() == data


def test_another_version_is_rebuilt_on_demand_alone(tmp_path: Path) -> None:
    add_previews(tmp_path / "ink", 0)
    updated(tmp_path)
    with sqlite3.connect(tmp_path / FILE) as records:
        records.execute("ALTER TABLE images ADD COLUMN more")
        records.execute("PRAGMA user_version = 7")
    records.close()
    with pytest.raises(ValueError, match=r"version 7.*--rebuild"):
        updated(tmp_path)
    rebuild_records(tmp_path)
    assert updated(tmp_path) == Changes() and len(rows(tmp_path)) == 2


def test_a_missing_full_text_search_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "TABLES", tuple(text.replace("fts5", "fts_absent") for text in database.TABLES))
    add_previews(tmp_path / "ink", 0)
    warnings: list[str] = []
    update_records(tmp_path, tmp_path / "ink", warnings.append)
    assert len(warnings) == 1 and "full-text search" in warnings[0] and "conda" in warnings[0]


def test_hostile_files_are_recorded_as_what_can_be_read(tmp_path: Path) -> None:
    add_previews(tmp_path / "ink", 0)
    add_scored(tmp_path / "ink", {"scored/base": None, "scored/step_000100": 100})
    add_generated(tmp_path / "drawn", "a cat")
    hostile = {"prompt": "lone \ud800 \0 '; DROP TABLE images", "seed": 2**70, "num_inference_steps": True, "key": "k"}
    hostile |= {"negative_prompt": ["a"], "guidance_scale": "7", "adapters": [1, {"strength": 1e999}], "model": {}}
    texts = PngInfo()
    texts.add_text(OWN_CHUNK, json.dumps(hostile))
    save_png(Image.new("RGB", (8, 8)), tmp_path / "drawn" / "image_000.png", texts)
    with (tmp_path / "drawn" / "generated.jsonl").open("a") as file:
        file.write('{"file_name": "../ink/previews/step_000000_prompt00_seed0.png"}\n{"file_name": 5}\n[]\ntorn')
    cells: list[Any] = [{"prompts": 5, "cells": 7}, {"value": "x"}, [], {"value": 1e400, "cells": [[]], "prompts": [0]}]
    row = {"step": "x", "images": "scored/step_000100", "scores": dict(zip("abcd", cells, strict=True))}
    (tmp_path / "ink" / "scores.jsonl").write_text(json.dumps(row) + "\n[\n" + json.dumps({"scores": []}) + "\n")
    (tmp_path / "ink" / "best.json").write_text('{"strengths": [1]}')
    (tmp_path / "ink" / "previews" / "previews.json").write_text('{"prompts": 3}')
    updated(tmp_path)
    known = rows(tmp_path)
    image = known["drawn/image_000.png"]
    assert image["prompt"] == "lone ? \0 '; DROP TABLE images"
    empty = ("seed", "num_inference_steps", "negative_prompt", "guidance_scale", "strength", "base_model")
    assert [image[name] for name in empty] == [None] * 6
    assert len(known) == 2 + 8 + 1 and not any(row["scores"] for row in known.values())


def test_the_columns_are_those_of_the_rows(tmp_path: Path) -> None:
    add_previews(tmp_path / "ink", 0)
    updated(tmp_path)
    assert set(next(iter(rows(tmp_path).values()))) == {*COLUMNS, *HIDDEN, "scores"}
