import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.config.evaluate import ScoredDataConfig
from finetune.config.sections import DataConfig
from finetune.evaluate.command import OF_RUN, parse_evaluation
from finetune.evaluate.drawing import save
from finetune.evaluate.references import read_scored_manifest
from finetune.evaluate.rows import read_rows
from finetune.sampling.metadata import OWN_CHUNK
from tests.support.images import picture, write


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "out"], ["targets: missing", "finetune evaluate RUN_FOLDER"]),
        (["nothing.safetensors", "--output", "out"], ["targets: no file or folder nothing.safetensors"]),
        ([".", "--goal", "subject", "--output", "out"], ["grid.subject: missing"]),
        ([".", "--grid.num_seeds", "1", "--output", "out"], ["grid.num_seeds: got 1, expected 2 or more"]),
        ([".", "--data.template", "ink", "--output", "out"], ["data.template", "contains {caption}"]),
    ],
)
def test_mistakes_are_sentences(arguments: list[str], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        parse_evaluation([*arguments, "--model.source", "base", "--data.folder", "data"])
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_run_folder_gives_the_options_that_it_was_trained_with(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        "model: {source: base, variant: null}\ndata: {folder: ink, template: '{caption}, ink', resolution: 64}\n"
        "validation: {fraction: 0.1}\npreview: {prompts: [a cat, a dog], num_inference_steps: 20}\n"
    )
    config = parse_evaluation([str(run), "--output", "out", "--draw.num_inference_steps", "5"])
    assert (config.model.source, config.data.folder, config.data.template) == ("base", "ink", "{caption}, ink")
    assert (config.data.validation_fraction, config.draw.size, config.draw.num_inference_steps) == (0.1, 64, 5)
    assert config.grid.prompts == ("a cat", "a dog") and config.targets == (str(run),)


def test_a_run_folder_says_how_its_images_and_captions_were_read(tmp_path: Path) -> None:
    images, run = tmp_path / "images", tmp_path / "run"
    run.mkdir()
    for name in ("cat", "dog"):
        text = f"A {name} sits on a wall and looks\nat the sea, which is grey today.\n"
        write(images, {f"10_ink/{name}.png": picture(), f"10_ink/{name}.txt": text})
    (run / "config.yaml").write_text(
        f"model: {{source: base}}\ndata: {{folder: {images}, caption_lines: joined, folder_repeats: 'on'}}\n"
    )
    records = read_scored_manifest(parse_evaluation([str(run), "--output", "out"]).data).records
    assert [record.captions for record in records] == [
        (f"A {name} sits on a wall and looks at the sea, which is grey today.",) for name in ("cat", "dog")
    ]
    assert [record.repeats for record in records] == [10, 10]
    write(tmp_path / "rated", {"cat.png": picture(), "cat.json": '{"tags": ["cat"], "rating": "g", "id": 3}'})
    (run / "config.yaml").write_text(
        f"model: {{source: base}}\ndata: {{folder: {tmp_path / 'rated'}, keep_rating: true}}\n"
    )
    (record,) = read_scored_manifest(parse_evaluation([str(run), "--output", "out"]).data).records
    assert record.captions == ("cat, rating:g",)


def test_every_option_of_what_is_read_is_taken_from_the_run() -> None:
    own = {item.name for item in fields(ScoredDataConfig)} & {item.name for item in fields(DataConfig)}
    assert own == {key.removeprefix("data.") for key in OF_RUN if key.startswith("data.")} - {"validation_fraction"}


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "scores.jsonl").write_text('{"id": 1, "step": 2, "target": "a", "scores": {}}\n{"id": 1\n')
    with pytest.raises(ValueError, match=r"line 2 of .* is damaged"):
        read_rows(tmp_path / "scores.jsonl")


def test_values_that_are_not_numbers_are_noted_in_the_image(tmp_path: Path) -> None:
    image: Any = np.full((4, 4, 3), 0.5)
    image[0, 0] = np.nan
    save(image, tmp_path / "a.png", {"prompt": "x"})
    with Image.open(tmp_path / "a.png") as read:
        assert json.loads(read.info[OWN_CHUNK]) == {"prompt": "x", "is_finite": False}
        assert read.getpixel((0, 0)) == (0, 0, 0) and read.getpixel((1, 1)) == (128, 128, 128)
