import base64
import hashlib
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.report.page import asset
from finetune.report.run import write_report

SCRIPT = "<script>alert(1)</script>"
HANDLER = '"><img src=x onerror=alert(1)>'
CONFIG = "model:\n  source: models/tiny\ndata:\n  folder: prepared/ink\noptim:\n  lr: 0.0001\n"


class Parsed(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(num_steps: int = 20) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for step in range(1, num_steps + 1):
        row = {"step": step, "loss": 0.1 + 1 / step, "lr": 1e-4, "grad_norm": 0.5, "images_per_second": 4.0 + step % 3}
        row |= {"images_seen": step * 8, "elapsed_seconds": step * 2.0}
        if step % 10 == 0:
            row |= {"validation/loss": 0.5 - step / 100, "validation/base_loss": 0.5}
        made.append(row)
    return made


def save_previews(folder: Path, prompts: list[str], steps: list[int], size: int = 64) -> None:
    (folder / "previews").mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).resize((size, size))
    grid = folder / "previews" / f"step_{steps[-1]:06d}_grid.png"
    noise.save(grid)
    for number in range(len(prompts)):
        for step in steps:
            shutil.copy(grid, folder / "previews" / f"step_{step:06d}_prompt{number:02d}_seed0.png")
    index = {"prompts": prompts, "seeds": [0], "steps": steps}
    (folder / "previews" / "previews.json").write_text(json.dumps(index))


def save_card(folder: Path, **changes: Any) -> None:
    bucket = {"width": 512, "height": 384, "num_pictures": 12, "crop_loss_mean": 0.031, "num_upscaled": 2}
    card = {"location": "prepared/ink", "fingerprint": "f1e2d3", "num_pictures": 14, "num_train": 12}
    card |= {"num_validation": 2, "captions": {"num": 15, "most_per_picture": 2}, "buckets": [bucket], "warnings": []}
    (folder / "data_card.json").write_text(json.dumps(card | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "ink_run"
    made.mkdir()
    write_metrics(made, rows())
    (made / "config.yaml").write_text(CONFIG)
    (made / "machines.json").write_text(json.dumps({"starts": [{"step": 0, "versions": {"diffusers": "0.41"}}]}))
    save_card(made)
    save_previews(made, ["a cat", "a dog"], [0, 10, 20])
    return made


def report(folder: Path, **options: Any) -> Parsed:
    return Parsed(write_report(folder, **options).read_text())


def test_the_page_shows_the_headline_figures(folder: Path) -> None:
    text = report(folder).text
    figures = ("160 images seen", "0.5 → 0.3", "-40.0%", "40 s", "images per second5median")
    assert [figure for figure in figures if figure not in text] == []


def test_a_validation_loss_that_rises_again_is_told_and_not_shown_as_a_success(folder: Path) -> None:
    losses = {5: 0.5, 10: 0.2, 20: 0.3}
    at = {step: {"validation/loss_at_125": loss, "validation/loss_at_625": 1 - loss} for step, loss in losses.items()}
    write_metrics(
        folder,
        [
            row | ({"validation/loss": losses[row["step"]]} | at[row["step"]] if row["step"] in losses else {})
            for row in rows()
        ],
    )
    parsed = report(folder)
    assert "lowest validation loss0.2 at step 100.3 at step 20 (+50%)" in parsed.text
    assert "t=125 at step 10, t=625 at step 5" in parsed.text and "Validation loss by timestep" in parsed.text
    assert ("class", "better") not in parsed.attributes


def test_the_page_draws_every_curve_with_values_on_hover(folder: Path) -> None:
    parsed, titles = report(folder), ("Loss", "Validation loss", "Learning rate", "Gradient norm", "Throughput")
    assert [title for title in titles if title not in parsed.text] == [] and parsed.tags.count("svg") == 5
    assert "step 20\nraw: 0.15\n" in parsed.text and "base model 0.5" in parsed.text


def test_the_validation_curve_begins_at_the_base_model(folder: Path) -> None:
    text = report(folder).text
    assert "step 0\nheld-out images: 0.5" in text
    write_metrics(folder, [{"step": 0, "validation/loss": 0.7}, *rows()])
    assert "step 0\nheld-out images: 0.7" in report(folder).text


def test_previews_stand_in_rows_of_prompts_and_columns_of_steps(folder: Path) -> None:
    parsed = report(folder)
    assert re.search(r"base model\s*step 10\s*step 20\s*a cat seed 0\s*a dog seed 0", parsed.text)
    assert parsed.tags.count("img") == 6 + 2 * 2  # two prompts, before and after


def test_of_many_previews_a_part_is_shown_and_the_page_stays_small(folder: Path) -> None:
    shutil.rmtree(folder / "previews")
    save_previews(folder, [f"prompt {number}" for number in range(30)], list(range(0, 1200, 100)), size=256)
    path = write_report(folder)
    parsed = Parsed(path.read_text())
    assert parsed.tags.count("img") == 24 * 8 + 4 * 2
    assert "Not shown: 4 steps and 6 prompts and seeds" in parsed.text and "step 1,100" in parsed.text
    assert path.stat().st_size < 4_000_000


def test_the_page_shows_data_config_and_versions(folder: Path) -> None:
    text = report(folder).text
    assert "models/tiny tuned on prepared/ink" in text
    assert "14 images: 12 to train on, 2 held out" in text
    assert re.search(r"512 × 384\s*12\s*3\.1%\s*2", text)
    assert "lr: 0.0001" in text and "diffusers" in text


def test_nothing_on_the_page_is_fetched_or_run(folder: Path) -> None:
    parsed = report(folder)
    sources = [value for name, value in parsed.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert sources and all(value.startswith("data:image/jpeg;base64,") for value in sources)
    assert not {"link", "iframe", "object", "a"} & set(parsed.tags)
    page = (folder / "report.html").read_text()
    assert not re.search(r"https?://|url\(", page)
    script = page.partition("<script>")[2].partition("</script>")[0]
    assert page.count("<script") == 1 and script == asset("images.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [value for _, value in parsed.attributes if value.startswith("default-src 'none'")]
    assert f"script-src 'sha256-{digest}'" in policy and "'unsafe-inline'" not in policy.partition("script-src")[2]


@pytest.mark.parametrize("text", [SCRIPT, HANDLER])
def test_what_users_wrote_is_shown_and_never_run(folder: Path, text: str) -> None:
    save_card(
        folder,
        location=text,
        fingerprint=text,
        captions={"num": text, "most_per_picture": text},
        warnings=[text],
        buckets=[{"width": text, "height": text, "num_pictures": text, "crop_loss_mean": text, "num_upscaled": text}],
    )
    (folder / "config.yaml").write_text(CONFIG + f"preview:\n  prompts:\n  - '{text}'\n")
    index = {"prompts": [text, text], "seeds": [0], "steps": [0, 10, 20]}
    (folder / "previews" / "previews.json").write_text(json.dumps(index))
    hostile = folder.with_name(text.replace("/", ""))
    folder.rename(hostile)
    parsed = report(hostile, message=text)
    page = (hostile / "report.html").read_text()
    assert page.count("<script") == 1 and parsed.tags.count("script") == 1
    assert [name for name, _ in parsed.attributes if name.startswith("on")] == []
    assert [value for name, value in parsed.attributes if name == "src" and not value.startswith("data:")] == []
    assert parsed.text.count(text) >= 10


def test_an_interrupted_run_says_so_and_leaves_out_the_torn_line(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "lo')
    text = report(folder, message="Stopped after step 20 of 100.").text
    assert "Stopped after step 20 of 100." in text
    assert "cannot be read and are left out: 1" in text


def test_numbers_that_are_not_finite_are_gaps(folder: Path) -> None:
    made = rows()
    made[4]["loss"] = None
    made[5]["grad_norm"] = math.inf
    write_metrics(folder, made)
    text = report(folder).text
    assert "step 5\nraw: not finite" in text
    assert "nan" not in text.lower().replace("fingerprint", "")


def test_a_run_with_one_line_and_nothing_else_gives_a_page(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"step": 1, "loss": 0.2}])
    parsed = report(tmp_path)
    assert parsed.tags.count("svg") == 1
    assert "No previews were made." in parsed.text and "No data card was written." in parsed.text


def test_an_empty_folder_gives_a_page(tmp_path: Path) -> None:
    assert "No step was logged yet." in report(tmp_path).text


def test_a_torn_preview_and_an_undecodable_file_name_do_not_stop_the_report(folder: Path) -> None:
    (folder / "previews" / "step_000010_prompt00_seed0.png").write_bytes(b"\x89PNG torn")
    (folder / "data_card.json").write_text(json.dumps({"location": "pictures\udce9"}))
    text = report(folder).text
    assert "cannot be read" in text and "pictures?" in text


def test_the_page_replaces_the_old_one_and_leaves_nothing_beside_it(folder: Path) -> None:
    write_report(folder)
    before = {path.name for path in folder.iterdir()}
    write_report(folder, message="again")
    assert {path.name for path in folder.iterdir()} == before
    assert "again" in (folder / "report.html").read_text()
