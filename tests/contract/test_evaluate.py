"""`finetune evaluate` as a whole on a tiny model, in this process."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from finetune.cli import main
from finetune.config.lora import LoRAConfig
from finetune.evaluate.command import read_rows
from finetune.evaluate.drawing import load_target
from finetune.evaluate.scores import SCORES
from finetune.evaluate.target import find_target
from finetune.methods.lora.export import export_adapters
from finetune.models import family_named
from finetune.models.family import ModelSource
from tests.support.adapter_models import trained_model
from tests.tiny.sd import save_pictures, save_pipeline
from tests.tiny.vision import save_dinov2

SMALL = ["--draw.size", "32", "--draw.num_inference_steps", "2", "--grid.num_prompts", "2", "--grid.num_seeds", "2"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models, a LoRA of the first, and six training images."""
    folder = tmp_path_factory.mktemp("inputs")
    base = save_pipeline(folder / "base", size="micro")
    model = trained_model(ModelSource(str(base)), LoRAConfig(rank=4))
    (folder / "lora").mkdir()
    export_adapters(LoRAConfig(rank=4), model, folder / "lora")
    return {
        "base": base,
        "other": save_pipeline(folder / "other", size="micro", seed=1),
        "lora": folder / "lora" / "style.safetensors",
        "eye": save_dinov2(folder / "eye"),
        "data": save_pictures(folder / "data", count=6, size=32),
    }


def options(inputs: dict[str, Path], output: Path, *targets: str) -> list[str]:
    given = ["--model.source", inputs["base"], "--data.folder", inputs["data"], "--output", output]
    return [*(str(inputs[name]) for name in targets), *map(str, given), "--data.validation_fraction", "0.3", *SMALL]


def evaluated(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", "evaluate", *arguments])
    main()


def test_scores_are_written_and_are_the_same_bits_again(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = options(inputs, output, "lora", "other")
    torch.manual_seed(0)
    evaluated(arguments, monkeypatch)
    printed, file = capsys.readouterr().out, output / "scores.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["target"], row["step"]) for row in rows] == [("style.safetensors", 3), ("other", None)]
    for row in rows:
        assert set(row["scores"]) == set(SCORES)
        for name, score in row["scores"].items():
            assert ("value" in score) != ("reason" in score), name
            assert score["meaning"] and score["features"] and name in printed
    assert "step 3" in printed and "not computed: the sets are too small" in printed
    images = sorted(path.relative_to(output) for path in (output / "images").rglob("*.png"))
    assert len(images) == 3 * 6 * 2  # base, LoRA, other; two prompts of three kinds; two seeds
    assert json.loads((output / "best.json").read_text())["goal"] == "style" and "Use " in printed

    before, best = file.read_bytes(), (output / "best.json").read_bytes()
    evaluated(arguments, monkeypatch)
    assert "Drawing" not in capsys.readouterr().out and file.read_bytes() == before

    file.unlink()
    (output / "best.json").unlink()
    (output / images[0]).unlink()
    (output / images[-1]).unlink()
    torch.manual_seed(1)  # the global random state has no influence
    evaluated(arguments, monkeypatch)
    assert "Drawing 2 images" in capsys.readouterr().out
    assert file.read_bytes() == before and (output / "best.json").read_bytes() == best


def test_the_base_model_against_itself_drifts_and_leaks_nothing(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At strength 0 the LoRA draws what the base model draws."""
    for strength in ("0", "0.5"):
        eye = ["--features.content", str(inputs["eye"])]
        evaluated([*options(inputs, tmp_path, "lora"), "--draw.strength", strength, *eye], monkeypatch)
    assert all(row["features"]["content"].startswith("eye@") for row in read_rows(tmp_path / "scores.jsonl"))
    rows = [row["scores"] for row in read_rows(tmp_path / "scores.jsonl")]
    assert len(rows) == 2
    scores, moved = sorted(rows, key=lambda scores: scores["drift"]["value"])
    assert scores["drift"]["value"] == pytest.approx(0, abs=1e-6) and scores["leak"]["value"] == 0
    assert scores["adherence"]["value"] == scores["adherence"]["detail"]["base"]
    assert scores["style"].get("value", 0) == pytest.approx(0, abs=1e-6)
    assert moved["drift"]["value"] > 0.01
    folders = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert sum(name.startswith("step_000003-") for name in folders) == 2
    drawn = [np.asarray(Image.open(tmp_path / "images" / name / "prompt00_seed0.png")) for name in folders]
    assert len({image.tobytes() for image in drawn}) == 2


def test_what_does_not_fit_the_base_model_is_a_sentence(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"lora_unet_nothing.lora_down.weight": torch.zeros(2, 2)}, other)
    cases = (
        ([], ["--draw.size", "33"], "draw.size: got 33, expected a multiple of 4"),
        ([str(save_dinov2(tmp_path / "eye"))], [], "not the folder of a finished run"),
        ([str(other)], [], "layer of 1 that"),
    )
    for targets, more, words in cases:
        arguments = options(inputs, tmp_path / "out", *([] if targets else ["lora"]))
        if more:
            place = arguments.index("--draw.size")
            del arguments[place : place + 2]
        with pytest.raises(SystemExit):
            evaluated([*targets, *arguments, *more], monkeypatch)
        assert words in capsys.readouterr().err


def test_a_run_without_adapters_of_the_text_encoder_is_drawn(inputs: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(inputs["lora"].with_name("pytorch_lora_weights.safetensors"))
    kept = {name: weight for name, weight in weights.items() if not name.startswith("text_encoder.")}
    assert 0 < len(kept) < len(weights)
    (tmp_path / "export").mkdir()
    save_file(kept, tmp_path / "export" / "pytorch_lora_weights.safetensors")
    family, source = family_named("sd"), ModelSource(str(inputs["base"]))
    loaded = load_target(family, source, find_target(tmp_path), 0.5, torch.device("cpu"))
    assert any("lora_A" in name for name, _ in loaded.components.denoiser.named_parameters())


def test_targets_are_told_apart(inputs: dict[str, Path], tmp_path: Path) -> None:
    assert find_target(inputs["lora"]).kind == "adapter" and find_target(inputs["other"]).kind == "pipeline"
    with pytest.raises(ValueError, match="not the folder of a finished run"):
        find_target(tmp_path)
    run = tmp_path / "run"
    (run / "export").mkdir(parents=True)
    with pytest.raises(ValueError, match="neither adapters, new tokens nor a pipeline"):
        find_target(run)
    (run / "export" / "style.safetensors").write_bytes(inputs["lora"].read_bytes())
    (run / "run.json").write_text('{"steps": 7}')
    found = find_target(run)
    assert (found.kind, found.step, found.name) == ("adapter", 7, "run")
