import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image

from finetune.config.drawing.generate import GenerateConfig
from finetune.config.sections import ModelConfig
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.sampling.generate import generate
from finetune.sampling.metadata import read_own
from finetune.sampling.planned import exported_files

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


@pytest.mark.parametrize("content", ["[1]", "{}", "text", '{"file_name": "a.png"}\n\xff'])
def test_a_list_of_another_program_is_kept(content: str, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "generated.jsonl").write_text(content)
    with pytest.raises(ValueError, match="not a list of this program"):
        generate(config(tiny_model, tmp_path))
    assert (tmp_path / "generated.jsonl").read_text() == content and len(list(tmp_path.iterdir())) == 1


def test_an_interrupted_command_leaves_whole_images_and_goes_no_further(tiny_model: Path, tmp_path: Path) -> None:
    def say(text: str) -> None:
        if "1 of 3" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(config(tiny_model, tmp_path, num_seeds=3), say)
    (only,) = tmp_path.iterdir()
    assert read_own(only) is not None
    assert len(generate(config(tiny_model, tmp_path, num_seeds=3))) == len(list(tmp_path.glob("0*.png"))) == 3
    assert len((tmp_path / "generated.jsonl").read_text().splitlines()) == 3


def drawn_by_diffusers(kind: Any, model: Path, **arguments: Any) -> np.ndarray:
    pipeline = kind.from_pretrained(model, safety_checker=None, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    image = pipeline("a red circle", generator=generator, num_inference_steps=10, guidance_scale=2.0, **arguments)
    return np.asarray(image.images[0]).astype(int)


def test_an_image_to_begin_with_is_what_diffusers_makes_of_it(tiny_model: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    line = f"a red circle --i {tmp_path / 'noise.png'} --d 3 --s 10 --l 2"
    given = [line, f"{line} --t 0.3", f"{line} --w 32 --h 40"]
    paths = generate(config(tiny_model, tmp_path / "out", *given, width=None, height=None))
    images = [pixels(path) for path in paths]
    kind, original = StableDiffusionImg2ImgPipeline, Image.fromarray(noise)
    for image, strength in zip(images, (0.8, 0.3), strict=False):
        expected = drawn_by_diffusers(kind, tiny_model, image=original, strength=strength)
        assert np.abs(image - expected).max() <= 1
    assert images[2].shape == (40, 32, 3)
    middle = original.crop((10, 0, 42, 40))
    assert np.abs(images[2] - drawn_by_diffusers(kind, tiny_model, image=middle, strength=0.8)).max() <= 1


@pytest.mark.parametrize("made_for_it", [False, True])
def test_a_masked_part_is_what_diffusers_paints(
    made_for_it: bool, tiny_model: Path, tiny_inpainting_model: Path, tmp_path: Path
) -> None:
    model = tiny_inpainting_model if made_for_it else tiny_model
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    noise.save(tmp_path / "noise.png")
    mask.save(tmp_path / "mask.png")
    line = f"a red circle --i {tmp_path / 'noise.png'} --m {tmp_path / 'mask.png'} --d 3 --s 10 --l 2"
    (path,) = generate(config(model, tmp_path / "out", line))
    expected = drawn_by_diffusers(
        StableDiffusionInpaintPipeline, model, image=noise, mask_image=mask, strength=1.0, width=32, height=32
    )
    assert np.abs(pixels(path) - expected).max() <= 1
    if made_for_it:
        with pytest.raises(ValueError, match="image: got one without a mask"):
            generate(config(model, tmp_path / "out", line.partition(" --m")[0]))


def test_bf16_is_close_to_fp32(tiny_model: Path, tmp_path: Path) -> None:
    exact, rounded = (generate(config(tiny_model, tmp_path, dtype=dtype))[0] for dtype in ("fp32", "bf16"))
    difference = np.abs(pixels(exact) - pixels(rounded))
    assert exact != rounded and 0 < difference.mean() < 8


def test_the_export_of_a_run_stands_for_its_files(tmp_path: Path) -> None:
    export = tmp_path / "run" / "export"
    (export / "embeddings" / "ink").mkdir(parents=True)
    assert exported_files(tmp_path / "a.safetensors") == (tmp_path / "a.safetensors", [])
    with pytest.raises(ValueError, match="no adapter"):
        exported_files(export)
    (export / DIFFUSERS_FILE).write_bytes(b"")
    assert exported_files(tmp_path / "run") == (export / DIFFUSERS_FILE, [])
    for name in ("ink.safetensors", "embeddings/ink.safetensors", "embeddings/ink/learned_embeds.safetensors"):
        (export / name).write_bytes(b"")
    expected = export / "ink.safetensors", [export / "embeddings" / "ink.safetensors"]
    assert exported_files(export) == exported_files(tmp_path / "run") == expected
    (export / "b.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="has 2 files"):
        exported_files(export)


def test_what_the_model_cannot_do_is_one_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as raised:
        generate(config(tiny_model, tmp_path, "a", "b --w 33", "c --ss FlowMatchEulerDiscreteScheduler"))
    text = str(raised.value)
    assert "prompt 2: width: got 33, expected a multiple of 4" in text and "prompt 3: sampler" in text
    assert "Use DDPM, DDIM, PNDM, Euler" in text and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("device", "word"), [("cuda:9", "device: got cuda:9"), ("gpu", "device: got gpu")])
def test_a_device_that_is_not_there_is_named(device: str, word: str, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=word):
        generate(config(tiny_model, tmp_path, device=device))
