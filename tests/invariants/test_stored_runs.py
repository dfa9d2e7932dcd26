"""A model stored in bfloat16 and in a wider format train alike."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import DiffusionPipeline
from torch import nn

from tests.support.families import save_tiny_pipeline
from tests.support.runs import Options, assert_same_end, completed, differing


def save_as(source: Path, folder: Path, dtype: torch.dtype) -> Path:
    """Write the numbers of the model, rounded to bfloat16, in `dtype`.

    float64 is the wider format to compare with: it is brought to float32 as bfloat16 is, while float32 weights stay
    where their file has them, and torch multiplies matrices by other sums where they begin at another place in memory.
    """
    pipeline: Any = DiffusionPipeline.from_pretrained(source)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.to(torch.bfloat16).to(dtype)
    pipeline.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "precision", "quantization"),
    [
        ("flux", "bf16", "none"),
        pytest.param("sd", "no", "none", marks=pytest.mark.slow),
        pytest.param("sd", "bf16", "nf4", marks=pytest.mark.slow),
        pytest.param("flux", "no", "int8", marks=pytest.mark.slow),
    ],
)
def test_a_model_in_bfloat16_trains_like_the_same_numbers_in_a_wider_format(
    family: str, precision: str, quantization: str, tiny_run: Options, tmp_path: Path
) -> None:
    model = save_tiny_pipeline(family, tmp_path / "model")
    for dtype in (torch.bfloat16, torch.float64):
        source = save_as(model, tmp_path / f"{dtype}", dtype)
        options: Options = {"model.source": source, "model.quantization": quantization, "train.steps": 3}
        completed(
            "lora",
            tiny_run | options | {"output.folder": tmp_path / f"run {dtype}", "output.name": "ink"},
            tmp_path / "log",
            environment={"ACCELERATE_MIXED_PRECISION": precision},
        )
    narrow, wide = tmp_path / "run torch.bfloat16", tmp_path / "run torch.float64"
    assert_same_end(narrow, wide)
    exported, other = (safetensors.torch.load_file(folder / "export" / "ink.safetensors") for folder in (narrow, wide))
    assert differing(exported, other) == []
