from pathlib import Path

import pytest

from finetune.config.trainers.command_lines import command_line_in
from finetune.config.trainers.formats import read_file

BATCH = """@echo off
set "DIM=16"
rem accelerate launch train_network.py --network_dim 2
call venv\\Scripts\\activate
accelerate launch --num_processes 2 .\\sd-scripts\\train_network.py ^
  --train_data_dir="C:\\data\\new images" --output_dir=C:\\out ^
  --network_dim=%DIM% --max_train_epochs 10
pause
"""
POWERSHELL = """# training
$dim = "16" # rank
accelerate launch --num_processes 2 "./sd-scripts/train_network.py" `
  --train_data_dir 'C:\\data\\new images' --output_dir C:\\out `
  --network_dim $dim --max_train_epochs 10
"""
UNIX = """#!/bin/bash
DIM=16
python tag_images.py --dir images
accelerate launch --num_processes 2 sd-scripts/train_network.py \\
  --train_data_dir "C:\\data\\new images" --output_dir 'C:\\out' \\
  --network_dim ${DIM} --max_train_epochs 10 > log.txt 2>&1
"""
EXPECTED = {
    "num_processes": "2",
    "script": "train_network.py",
    "train_data_dir": "C:\\data\\new images",
    "output_dir": "C:\\out",
    "network_dim": "16",
    "max_train_epochs": "10",
}


@pytest.mark.parametrize(
    ("name", "text"), [("a.bat", BATCH), ("a.CMD", BATCH), ("a.ps1", POWERSHELL), ("a.sh", UNIX), ("a.txt", BATCH)]
)
def test_every_continued_line_is_read(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.replace("\n", "\r\n" if "sh" not in name else "\n").encode())
    assert read_file(tmp_path / name) == EXPECTED


@pytest.mark.parametrize("between", ["\n", ";", " && "])
def test_two_training_commands_are_refused_with_both_names(between: str) -> None:
    first, second = "python train_network.py --network_dim 4", "python sdxl_train.py --max_train_steps 9"
    with pytest.raises(ValueError, match=r"2 training commands: train_network.py .*sdxl_train.py .*file of its own"):
        command_line_in(f"{first}{between}{second}")


@pytest.mark.parametrize("line", ["--a 1 \\\n# --b 2 \\", "--a 1 \\ ", "--a 1"])
def test_options_behind_a_line_that_ends_the_command_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"begins with --network_dim, but belongs to no command"):
        command_line_in(f"python train_network.py {line}\n--network_dim 4\n", ".sh")


ARRAYS = """#!/bin/bash
base="/data"
OUT="$base/out"
args=(
  --network_dim 16   # rank
  --network_alpha ${ALPHA:-8}
)
if [[ $low == 1 ]]; then args+=("--lowram"); fi
if [ -n "$X" ]; then
  OUT=/elsewhere
  args+=(--flip_aug)
fi
args+=(--seed 3)
accelerate launch train_network.py "${args[@]}" --output_dir $OUT
"""
SPLATTED = """$Out = "D:/out" # folder
$extra = [System.Collections.ArrayList]::new()
if ($low) {
  [void]$extra.Add("--lowram")
} else {
  $out = "E:/"
}
[void]$extra.Add("--seed=3")
$net = @("--network_dim=16", "--network_alpha", 8,
  "--output_dir=$OUT"
)
if ($flip) { $extra += @("--flip_aug") }
accelerate launch train_network.py @net $extra
"""


@pytest.mark.parametrize(
    ("suffix", "text", "out", "left"),
    [
        (".sh", ARRAYS, "/data/out", "--lowram --flip_aug OUT=/elsewhere"),
        (".ps1", SPLATTED, "D:/out", "--lowram --flip_aug"),
    ],
)
def test_arrays_are_read_and_conditions_are_named(suffix: str, text: str, out: str, left: str) -> None:
    found = command_line_in(text, suffix)
    assert found is not None and set(str(found.pop("under_conditions")).split()) == set(left.split())
    assert found == {
        "script": "train_network.py", "network_dim": "16", "network_alpha": "8", "seed": "3", "output_dir": out
    }  # fmt: skip


def test_a_table_of_options_is_refused() -> None:
    with pytest.raises(ValueError, match=r"line 1 makes a table of options .* array @\(...\)"):
        command_line_in("$a = @{\n  seed = 3\n}\naccelerate launch train_network.py @a\n", ".ps1")


def test_an_environment_file_replaces_its_variables(tmp_path: Path) -> None:
    (tmp_path / "config.env").write_text('export BASE="/data"\nexport OUTPUT_DIR="${BASE}/models"\n')
    assert read_file(tmp_path / "config.env") == {"BASE": "/data", "OUTPUT_DIR": "/data/models"}


@pytest.mark.parametrize(("name", "text"), [("a.yaml", "a: {b: 1"), ("a.json", '{"a": 1'), ("a.toml", "[a")])
def test_a_file_that_its_name_gives_away_says_where_it_is_broken(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} is not valid {name[2:].upper()}: .*(line 1|end of document)"):
        read_file(tmp_path / name)
