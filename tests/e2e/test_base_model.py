"""The command that trains a base model from tables of icons."""

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import safetensors.torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
STYLES = ("line icon", "bold line icon", "flat emoji", "solid icon")


def write_icons(folder: Path, num_concepts: int) -> None:
    folder.mkdir()
    dice, rows = random.Random(0), []
    for number in range(num_concepts):
        for style in STYLES:
            image = Image.new("RGB", (64, 64), "white")
            top, left = dice.randint(4, 24), dice.randint(4, 24)
            ImageDraw.Draw(image).rectangle((left, top, left + 32, top + 32), fill="black")
            encoded = io.BytesIO()
            image.save(encoded, "PNG")
            rows.append({
                "image": {"bytes": encoded.getvalue(), "path": None}, "concept": f"thing {number}", "style": style,
                "set": style,
            })  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00000.parquet")


def run(icons: Path, work: Path) -> str:
    steps = ["--autoencoder_steps", "2", "--steps", "2", "--last_steps", "2", "--batch_size", "4"]
    command = [sys.executable, "-m", "tools.base_model", "--icons", icons, "--work", work, *steps]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_one_command_trains_all_parts_and_continues_where_it_was(tmp_path: Path) -> None:
    icons, work = tmp_path / "icons", tmp_path / "work"
    write_icons(icons, 30)
    assert "in pieces" in run(icons, work)
    stages = {name: work / name / "export" for name in ("tokenizer", "autoencoder", "denoiser", "last")}
    unets = [
        safetensors.torch.load_file(stages[name] / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
        for name in ("autoencoder", "denoiser", "last")
    ]
    assert not unets[0].equal(unets[1]) and not unets[1].equal(unets[2])
    pieces = sorted(path for path in (work / "pieces").rglob("*") if path.is_file())
    assert max(path.stat().st_size for path in pieces) < 16 * 10**6
    for file in (path for path in stages["last"].rglob("*") if path.is_file()):
        parts = [path for path in pieces if path.name.partition(".part")[0] == file.name]
        there = [path for path in parts if path.parent.name == file.parent.name or file.parent == stages["last"]]
        assert b"".join(path.read_bytes() for path in there) == file.read_bytes(), file
    before = {path: path.stat().st_mtime_ns for path in (work / "last" / "export").rglob("*")}
    assert "is finished" in run(icons, work)
    assert before == {path: path.stat().st_mtime_ns for path in (work / "last" / "export").rglob("*")}
