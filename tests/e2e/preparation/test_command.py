"""Preparation as users start it, and readers of its result."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.config.parse.command_line import parse
from finetune.config.parse.presets import find_preset
from finetune.config.recipes import LoRATrainConfig
from finetune.data.manifest import read_manifest
from tests.support.images import SHARED, drawn, encoded, gradient, write
from tests.support.prepared import rows_of

ROOT = Path(__file__).parents[3]


def prepared(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "datasets_prep", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_a_folder_becomes_a_dataset_that_everything_reads(tmp_path: Path) -> None:
    from datasets import load_dataset

    files: dict[str, bytes | str] = {
        "train/a_boat.jpg": encoded(gradient(120, 80), "JPEG"),
        "test/val_2.png": encoded(drawn(1, (64, 70))),
        "test/val_2.txt": "a blue ”plane”\nein Blau",
        "odd 'name'\n.webp": encoded(drawn(2), "WEBP"),
        "dog.avif": encoded(drawn(3), "AVIF"),
        "dog2.avif": encoded(drawn(3), "AVIF"),
        "broken.jpg": b"\xff\xd8\xff broken",
    }
    output = tmp_path / "my prepared"
    ended = prepared("--source", write(tmp_path / "raw", files), "--output", output, "--trigger", "ink style")
    assert ended.returncode == 0, ended.stderr
    assert "4 images" in ended.stdout and "exact_duplicate 1" in ended.stdout
    assert "without a caption" in ended.stdout and str(output / "report.html") in ended.stdout
    assert ended.stderr == ""

    rows = load_dataset("imagefolder", data_dir=str(output), cache_dir=str(tmp_path / "cache"))
    assert list(rows) == ["train"] and len(rows["train"]) == 4
    by_source = {row["source"]: row for row in rows["train"]}
    assert by_source["test/val_2.png"]["text"] == "a blue ”plane”, ink style"
    assert by_source["test/val_2.png"]["captions_alt"] == ["ein Blau, ink style"]
    for row in by_source.values():
        assert row["image"].size == (row["width"], row["height"])
    assert len(read_manifest(str(output)).records) == 4

    again = prepared("--source", tmp_path / "raw", "--output", output, "--trigger", "ink style", folder=tmp_path)
    assert again.returncode == 0 and "Nothing to do" in again.stdout

    words = shlex.split(ended.stdout.splitlines()[-1])
    assert words[:2] == ["accelerate", "launch"] and (ROOT / words[3]).is_file()
    elsewhere = shlex.split(again.stdout.splitlines()[-1])
    assert Path(elsewhere[3]).is_absolute() and Path(elsewhere[3]).is_file() and elsewhere[4:] == words[4:]
    options = words[words.index("recipes.lora") + 1 :]
    config = parse(LoRATrainConfig, options, program="recipes.lora", find_file=find_preset)
    assert config.data.folder == str(output)


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    ended = prepared("--source", tmp_path / "nothing", "--output", tmp_path / "out")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: source: there is no ") and "Traceback" not in ended.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--source", ".", "--output", "./out"]])
def test_neither_help_nor_a_mistake_loads_torch(arguments: list[str]) -> None:
    code = "import atexit, runpy, sys\natexit.register(lambda: print('torch' in sys.modules))\n"
    code += f"sys.argv = ['datasets_prep', *{arguments!r}]\nrunpy.run_module('datasets_prep', run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1] == "False", ended.stderr


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real images at {SHARED}")
def test_photographs_keep_their_captions_and_bytes(tmp_path: Path) -> None:
    ended = prepared("--source", SHARED / "style_line", "--output", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    rows, left_out = (rows_of(tmp_path / "out", name) for name in ("metadata.jsonl", "rejected.jsonl"))
    assert len(rows) + len(left_out) == len(list((SHARED / "style_line").glob("*.png")))
    assert {row["reason"] for row in left_out} <= {"exact_duplicate"}
    for row in rows:
        written, original = tmp_path / "out" / row["file_name"], SHARED / "style_line" / row["source"]
        assert written.read_bytes() == original.read_bytes()
