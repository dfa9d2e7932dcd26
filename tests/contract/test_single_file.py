"""Layers of the single file match lists of other programs. The lists in `names/` were checked by hand."""

import re
from pathlib import Path

import pytest
import safetensors.torch

NAMES = Path(__file__).parent / "names"
ENDS = ("lora_down.weight", "lora_up.weight", "alpha")
BRACES = re.compile(r"\{([^{}]*)\}")


def expanded(line: str) -> list[str]:
    """Expand a line to its names: x_{q,k}_y is x_q_y and x_k_y."""
    found = BRACES.search(line)
    if found is None:
        return [line]
    before, after = line[: found.start()], line[found.end() :]
    return [name for choice in found[1].split(",") for name in expanded(before + choice + after)]


def test_each_layer_has_the_name_that_other_programs_look_for(name: str, lora_run: Path) -> None:
    path = NAMES / f"{name}.txt"
    if not path.exists():
        pytest.fail(f"{path} is missing: list the layers of the tiny model's single file, as sd-scripts names them.")
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    expected = [layer for line in lines for layer in expanded(line)]
    assert len(set(expected)) == len(expected)
    tensors = safetensors.torch.load_file(lora_run / "export" / "style.safetensors")
    layers = {key.partition(".")[0] for key in tensors}
    assert layers == set(expected)
    assert tensors.keys() == {f"{layer}.{end}" for layer in layers for end in ENDS}
    for layer in layers:
        down, up = tensors[f"{layer}.lora_down.weight"], tensors[f"{layer}.lora_up.weight"]
        assert down.shape[0] == up.shape[1] and tensors[f"{layer}.alpha"].shape == ()
