"""The command `finetune generate` on the shipped model and on docs/generate.md."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.config.lora import LoRAConfig
from finetune.demo.run import BASE_MODEL
from finetune.methods.lora.method import LoRA
from finetune.models.family import ModelSource
from tests.support.adapter_models import KINDS, trained_model
from tests.support.guides import command_with, run_command
from tests.support.launch import ROOT, command, succeeded
from tests.tiny.sd import save_pipeline

GENERATE = ["-m", "finetune.cli", "generate"]


def test_prompts_of_a_file_are_drawn_with_the_shipped_model(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(
        "# fruit\nred apple, 3d emoji --l 3 --d 1\nsailboat --ss k_euler --s 3 --am 1\n"
    )
    words = [*GENERATE, "--model.source", str(BASE_MODEL), "--prompts", str(tmp_path / "prompts.txt")]
    words += ["--output", str(tmp_path / "out"), "--num_inference_steps", "12", "--num_seeds", "2"]
    said = succeeded(words)
    assert "Drawing 4 images of 4" in said and "warning" not in said
    paths = sorted((tmp_path / "out").glob("0*.png"))
    assert [path.name[:12] for path in paths] == ["00001_seed1_", "00001_seed2_", "00002_seed0_", "00002_seed1_"]
    apple = np.asarray(Image.open(paths[0])).astype(float)
    assert apple.shape == (64, 64, 3) and apple[:8, :8].mean() > 240  # on white
    coloured = apple[np.ptp(apple, axis=2) > 60]
    assert len(coloured) > 100 and coloured[:, 0].mean() > coloured[:, 1].mean() + 50  # and red
    rows = [json.loads(line) for line in (tmp_path / "out" / "generated.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["seed"], row["num_inference_steps"]) for row in rows] == [
        ("red apple, 3d emoji", 1, 12),
        ("red apple, 3d emoji", 2, 12),
        ("sailboat", 0, 3),
        ("sailboat", 1, 3),
    ]
    assert "All 4 images are there already" in succeeded(words)


def test_mistakes_are_sentences_before_a_model_loads(tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_text("- prompt: a cat\n  widths: 3\n")
    ended = command([*GENERATE, "--model.source", "none", "--prompts", str(tmp_path / "prompts.yaml"), "--output", "x"])
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "prompts.yaml, line 1: widths: no such option. Did you mean width?" in ended.stderr
    ended = command([*GENERATE, "--model.source", "none", "--prompts", "a cat", "--output", str(tmp_path / "out")])
    assert ended.returncode == 1 and "no folder none" in ended.stderr and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_whole_images_and_the_same_command_the_rest(tmp_path: Path) -> None:
    words = [*GENERATE, "--model.source", str(save_pipeline(tmp_path / "model", size="micro")), "--prompts", "a circle"]
    words += ["--output", str(tmp_path / "out"), "--num_seeds", "40", "--width", "64", "--height", "64"]
    words += ["--num_inference_steps", "10"]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("out/*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130 and "draws the images that are missing" in said and "Traceback" not in said
    for path in (tmp_path / "out").iterdir():
        assert path.suffix == ".png" and Image.open(path).load() is not None
    num = len(list(tmp_path.glob("out/*.png")))
    assert num < 40 and f"Drawing {40 - num} images of 40" in succeeded(words)


@pytest.mark.slow
def test_the_commands_of_the_guide(tiny_model: Path, tmp_path: Path) -> None:
    config = LoRAConfig(**KINDS["lora"])
    LoRA(config).export(trained_model(ModelSource(str(tiny_model)), config), tmp_path / "run" / "export")
    (tmp_path / "prompts.txt").write_text("a red circle --w 32 --h 32\n")
    stand_ins = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": str(tiny_model),
        "runs/ink/export/ink.safetensors:0.8": f"{tmp_path / 'run' / 'export' / 'style.safetensors'}:0.8",
        "prompts.txt": str(tmp_path / "prompts.txt"),
        "drawn": str(tmp_path / "drawn"),
        "runs/ink": str(tmp_path / "run"),
    }
    run_command(command_with("generate.md", "generate"), stand_ins, ["--num_inference_steps", "2"])
    paths = sorted((tmp_path / "drawn").glob("0*.png"))
    assert len(paths) == 8 and "<lora:style:0.8>" in Image.open(paths[0]).info["parameters"]
    small = ["--num_inference_steps", "1", "--width", "32", "--height", "32"]
    run_command(command_with("generate.md", "--grid"), stand_ins, small)
    assert len(list((tmp_path / "drawn").glob("0*.png"))) == 8 + 18
    assert len(list((tmp_path / "drawn").glob("grid_*.png"))) == 1 + 2
