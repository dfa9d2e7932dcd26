from pathlib import Path

import pytest
from safetensors import safe_open

from tests.support.runs import PREVIEWS, Options, assert_same_end, completed, kill_after_three_steps, metrics, refused


def options_of(tiny_run: Options, kind: str, folder: Path) -> Options:
    own: Options = {"model.quantization": kind, "train.steps": 6, "train.gradient_checkpointing": True}
    return tiny_run | own | {"output.folder": folder, "lora.dropout": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "precision"), [("nf4", "bf16"), ("int8", "no")])
def test_a_killed_run_on_quantised_weights_continues_bit_for_bit(
    kind: str, precision: str, tiny_run: Options, tmp_path: Path
) -> None:
    environment = {"ACCELERATE_MIXED_PRECISION": precision}
    ended = completed("lora", options_of(tiny_run, kind, tmp_path / "a"), tmp_path / "log", environment=environment)
    assert f"are kept in {kind}" in ended.output

    broken = options_of(tiny_run, kind, tmp_path / "b")
    kill_after_three_steps("lora", broken | {"checkpoint.every": 2}, tmp_path / "log", environment=environment)
    ended = completed("lora", broken, tmp_path / "log", environment=environment)
    assert_same_end(tmp_path / "a", tmp_path / "b")
    assert all(row["grad_norm"] > 0 for row in metrics(tmp_path / "a"))

    with safe_open(tmp_path / "a" / "export" / "a.safetensors", framework="pt") as file:
        assert file.metadata()["ss_base_weights_quantization"] == kind


@pytest.mark.parametrize("kind", ["lokr", "oft"])
def test_relatives_of_lora_train_on_quantised_weights_with_previews(
    kind: str, tiny_run: Options, tmp_path: Path
) -> None:
    options = options_of(tiny_run, "nf4", tmp_path / "out") | {"train.steps": 1, "lora.kind": kind, "lora.dropout": 0.0}
    options |= PREVIEWS | {"preview.size": 32}
    if kind == "oft":
        options = {key: value for key, value in options.items() if key != "lora.rank"} | {"lora.block_size": 2}
    completed("lora", options, tmp_path / "log")
    assert len(list((tmp_path / "out" / "previews").glob("step_*_prompt00_seed0.png"))) == 2


def test_files_of_tokens_say_that_the_base_was_quantised(tiny_run: Options, tmp_path: Path) -> None:
    options = options_of(tiny_run, "int8", tmp_path / "out") | {"train.steps": 1, "tokens.names": "<ink>"}
    options |= {"data.captions": "none", "data.template": "a picture in the style of <ink>"}
    completed("lora", options, tmp_path / "log")
    found = list((tmp_path / "out" / "export" / "embeddings").rglob("*.safetensors"))
    assert len(found) == 2
    for path in found:
        with safe_open(path, framework="pt") as file:
            assert file.metadata()["token.base_weights_quantization"] == "int8"


def test_an_option_that_does_not_fit_the_model_is_refused_before_images_are_encoded(
    tiny_run: Options, tmp_path: Path
) -> None:
    options = tiny_run | {"lora.targets": ("to_q", "nowhere"), "cache.folder": tmp_path / "cache"}
    refused("lora", options, tmp_path / "log", "lora.targets", "nowhere")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
