import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.support.original_layout import save_single_file
from tests.support.runs import Options, completed
from tests.tiny.sdxl import build_pipeline
from tests.unit.models.loading.test_single_file import without_weights


@pytest.mark.slow
def test_a_run_its_metadata_and_its_previews_follow_the_marks_of_the_file(tiny_run: Options, tmp_path: Path) -> None:
    pipeline: Any = build_pipeline(num_layers=10)
    file = save_single_file(pipeline, tmp_path / "noob.safetensors")
    weights = safetensors.torch.load_file(file) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    safetensors.torch.save_file(weights, file)
    options = tiny_run | {
        "model.source": file,
        "model.config": without_weights(pipeline, tmp_path / "configs"),
        "train.steps": 1,
        "preview.prompts": ("a red circle",),
        "preview.num_inference_steps": 2,
    }
    ended = completed("lora", options, tmp_path / "log")
    assert ended.output.count("noob.safetensors trains as v_prediction with zero terminal SNR") == 1
    assert ended.output.count("zero terminal SNR with loss.weighting min_snr gives the last timestep") == 1
    assert ended.output.count("the base model's own loss on these images") == 1  # its weights are random
    warnings = json.loads((tmp_path / "out" / "data_card.json").read_text())["warnings"]
    assert "own loss" in warnings[-1]
    with safetensors.safe_open(tmp_path / "out" / "export" / "out.safetensors", framework="pt") as exported:
        metadata = exported.metadata()
    assert metadata["modelspec.prediction_type"] == "v" and metadata["ss_zero_terminal_snr"] == "True"
