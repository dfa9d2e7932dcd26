import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.config.drawing.generate import GenerateConfig
from finetune.config.sections import ModelConfig
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.sampling.generate import generate
from finetune.sampling.metadata import read_own

SIZE = 32


def config(model: Path, output: Path, *prompts: str, **options: Any) -> GenerateConfig:
    small: dict[str, Any] = {"width": SIZE, "height": SIZE, "num_inference_steps": 2}
    return GenerateConfig(ModelConfig(str(model)), prompts or ("a red circle",), output, **(small | options))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_an_image_is_the_pipelines_own(tiny_model: Path, tmp_path: Path) -> None:
    (path,) = generate(config(tiny_model, tmp_path, "a red circle --n blurry --d 7 --l 4", seed=1))
    family = StableDiffusion()
    components = family.load(ModelSource(str(tiny_model)))
    image = family.pipeline(components)(
        "a red circle",
        negative_prompt="blurry",
        width=SIZE,
        height=SIZE,
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    assert np.abs(pixels(path) - np.asarray(image).astype(int)).max() <= 1
    assert path.name.startswith("00001_seed7_") and Image.open(path).size == (SIZE, SIZE)


def test_an_image_does_not_depend_on_its_batch(tiny_model: Path, tmp_path: Path) -> None:
    prompts = "a red circle", "a blue square --d 5", "a red circle --ss Euler", "one, " * 100, "a cross --w 64"
    alone = generate(config(tiny_model, tmp_path / "alone", *prompts, num_seeds=2))
    together = generate(config(tiny_model, tmp_path / "together", *prompts, num_seeds=2, batch_size=4))
    assert [path.name for path in alone] == [path.name for path in together] == sorted(p.name for p in alone)
    for one, other in zip(alone, together, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1
    assert len({pixels(path).tobytes() for path in alone}) == 10


def test_the_same_command_draws_only_what_is_missing(tiny_model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    paths = generate(config(tiny_model, tmp_path, num_seeds=3), said.append)
    before = {path: path.stat().st_mtime_ns for path in paths}
    listed = (tmp_path / "generated.jsonl").read_text()
    paths[1].unlink()
    assert generate(config(tiny_model, tmp_path, num_seeds=3), said.append) == paths
    assert [path for path in paths if path.stat().st_mtime_ns != before[path]] == [paths[1]]
    generate(config(tiny_model, tmp_path, num_seeds=3), said.append)
    assert said[0] == "Drawing 3 images of 3 on cpu in fp32." and "All 3 images are there already." in said
    assert (tmp_path / "generated.jsonl").read_text() == listed


def test_other_commands_and_other_files_are_kept(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"mine")
    (first,) = generate(config(tiny_model, tmp_path))
    (second,) = generate(config(tiny_model, tmp_path, guidance_scale=3.0))
    assert first != second and first.exists() and (tmp_path / "holiday.png").read_bytes() == b"mine"
    rows = [json.loads(line) for line in (tmp_path / "generated.jsonl").read_text().splitlines()]
    assert {row["file_name"] for row in rows} == {first.name, second.name}
    assert {row["guidance_scale"] for row in rows} == {3.0, 7.5}
    first.write_bytes(b"mine")
    with pytest.raises(ValueError, match="not from this command"):
        generate(config(tiny_model, tmp_path))
    assert first.read_bytes() == b"mine"


def test_an_interrupted_command_leaves_whole_images_and_goes_no_further(tiny_model: Path, tmp_path: Path) -> None:
    def say(text: str) -> None:
        if "1 of 3" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(config(tiny_model, tmp_path, num_seeds=3), say)
    (only,) = tmp_path.iterdir()
    assert read_own(only) is not None
    assert len(generate(config(tiny_model, tmp_path, num_seeds=3))) == len(list(tmp_path.glob("*.png"))) == 3
    assert len((tmp_path / "generated.jsonl").read_text().splitlines()) == 3


def test_images_begin_with_an_image(tiny_model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), "red").save(tmp_path / "red.png")
    given = f"a red circle --i {tmp_path / 'red.png'}"
    weak, strong = generate(
        config(tiny_model, tmp_path / "out", f"{given} --t 0.01", f"{given} --t 1", width=None, num_inference_steps=100)
    )
    assert Image.open(weak).size == Image.open(strong).size


def test_what_the_model_cannot_do_is_one_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as raised:
        generate(config(tiny_model, tmp_path, "a", "b --w 33", "c --ss FlowMatchEulerDiscreteScheduler"))
    text = str(raised.value)
    assert "prompt 2: width: got 33, expected a multiple of 2" in text and "prompt 3: sampler" in text
    assert "Use DDPM, DDIM, PNDM, Euler" in text and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("device", "word"), [("cuda:9", "device: got cuda:9"), ("gpu", "device: got gpu")])
def test_a_device_that_is_not_there_is_named(device: str, word: str, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=word):
        generate(config(tiny_model, tmp_path, device=device))
