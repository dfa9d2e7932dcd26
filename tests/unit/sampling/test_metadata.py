import hashlib
import json
import re
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image

from finetune.sampling.metadata import Drawn, a1111_hash, parameters_text, png_texts, read_own, save_png

DRAWN = Drawn(
    prompt="a cat: ink, café 😀",
    negative_prompt="blurry",
    width=512,
    height=768,
    seed=42,
    num_inference_steps=30,
    guidance_scale=7.5,
    sampler="DPM++ 2M Karras",
    scheduler="DPMSolverMultistepScheduler",
    model="models/dream shaper, v8.safetensors",
    adapters=[
        {"name": "ink.safetensors", "hash": "ab" * 32, "strength": 0.8},
        {"name": "two.safetensors", "hash": "cd" * 32, "strength": -1.0},
    ],
    embeddings=[{"name": "word.safetensors", "hash": "ef" * 32, "word": "<word>"}],
    key="k",
    image_strength=0.75,
)
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""The form in which A1111's reader expects the last line's fields."""


def fields(line: str) -> dict[str, str]:
    return {name: json.loads(text) if text[0] == '"' else text for name, text in PARAMETER.findall(line)}


def test_parameters_are_what_a1111_reads() -> None:
    first, second, last = parameters_text(DRAWN).split("\n")
    assert first == "a cat: ink, café 😀 <lora:ink:0.8> <lora:two:-1>" and second == "Negative prompt: blurry"
    found = fields(last)
    assert found.pop("Version").startswith("sd-finetune ")
    assert found == {
        "Steps": "30",
        "Sampler": "DPM++ 2M Karras",
        "CFG scale": "7.5",
        "Seed": "42",
        "Size": "512x768",
        "Model": "dream shaper, v8",
        "Denoising strength": "0.75",
        "Lora hashes": f"ink: {'ab' * 6}, two: {'cd' * 6}",
        "TI hashes": f"word: {'ef' * 6}",
    }


def test_both_texts_are_read_back_from_the_file(tmp_path: Path) -> None:
    save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", png_texts(DRAWN))
    assert Image.open(tmp_path / "a.png").info["parameters"] == parameters_text(DRAWN)
    found = read_own(tmp_path / "a.png")
    assert found == DRAWN.as_json() and found["prompt"] == DRAWN.prompt and found["adapters"][1]["strength"] == -1.0


def test_other_files_are_not_ours(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"text")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    assert [read_own(tmp_path / name) for name in ("a.png", "b.png", "c.png", "none.png")] == [None] * 4


def test_the_hash_of_an_adapter_is_that_of_its_tensors_unless_it_says_another(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", {"note": "x"})
    safetensors.torch.save_file(tensors, tmp_path / "b.safetensors", {"another": "header"})
    expected = hashlib.sha256(tensors["a"].numpy().tobytes()).hexdigest()
    assert a1111_hash(tmp_path / "a.safetensors") == a1111_hash(tmp_path / "b.safetensors") == expected
    safetensors.torch.save_file(tensors, tmp_path / "c.safetensors", {"sshs_model_hash": "0123"})
    assert a1111_hash(tmp_path / "c.safetensors") == "0123" and a1111_hash(tmp_path) == ""
