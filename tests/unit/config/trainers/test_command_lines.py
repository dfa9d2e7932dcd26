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
