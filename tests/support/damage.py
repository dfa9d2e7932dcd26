"""Changes that accidents and users make to files."""

import json
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from torch import Tensor


def flip_a_bit(file: Path, place: float = 0.5) -> None:
    """Change one bit at a share of the file's length."""
    data = bytearray(file.read_bytes())
    data[int((len(data) - 1) * place)] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    """Leave the first half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def change_json(file: Path, **entries: object) -> None:
    """Replace or add entries of an object."""
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def change_weight(file: Path, name: str, change: Callable[[Tensor], object]) -> None:
    weights = safetensors.torch.load_file(file)
    change(weights[name])
    file.write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
