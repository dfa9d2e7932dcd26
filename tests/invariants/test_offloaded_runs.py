from pathlib import Path

import pytest

from tests.support.families import save_tiny_pipeline
from tests.support.runs import PREVIEWS, SUBJECT, Options, assert_same_end, completed, kill_after_three_steps

EVERYTHING = PREVIEWS | {"preview.size": 32, "validation.fraction": 0.2, "validation.every": 2}
EVERYTHING |= {"train.gradient_checkpointing": True, "lora.dropout": 0.1}
OWN: dict[str, Options] = {"dora": {"lora.dora": True}, "lokr": {"lora.kind": "lokr"}}
OWN["prediction"] = SUBJECT | {"prior.kind": "prediction"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "precision", "kind"),
    [("sd", "no", "int8"), ("flux", "bf16", "none")],
)
def test_a_run_is_the_same_and_continues_bit_for_bit_when_it_is_killed(
    family: str, precision: str, kind: str, tiny_run: Options, tmp_path: Path
) -> None:
    environment = {"ACCELERATE_MIXED_PRECISION": precision}
    model = save_tiny_pipeline(family, tmp_path / "model")
    options = tiny_run | EVERYTHING | {"model.source": model, "model.quantization": kind, "train.steps": 4}
    usual = completed("lora", options | {"output.folder": tmp_path / "a"}, tmp_path / "log", environment=environment)

    offloaded = options | {"output.folder": tmp_path / "b", "model.offload": True, "checkpoint.every": 2}
    kill_after_three_steps("lora", offloaded, tmp_path / "log", environment=environment)
    ended = completed("lora", offloaded, tmp_path / "log", environment=environment)
    assert "in host memory, one at a time on the device" in ended.output

    assert_same_end(tmp_path / "a", tmp_path / "b")
    pictures = [sorted((tmp_path / name / "previews").glob("step_*_seed0.png")) for name in ("a", "b")]
    assert [path.read_bytes() for path in pictures[0]] == [path.read_bytes() for path in pictures[1]] != []
    (counts,) = {line for line in ended.output.splitlines() if "parameters are trained" in line}
    assert counts in usual.output


@pytest.mark.parametrize(
    "kind", ["lokr", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("dora", "prediction"))]
)
def test_what_asks_the_base_weights_is_the_same_too(kind: str, tiny_run: Options, tmp_path: Path) -> None:
    recipe = "dreambooth" if kind == "prediction" else "lora"
    for name, offload in (("a", False), ("b", True)):
        more: Options = {"train.steps": 2, "output.folder": tmp_path / name, "model.offload": offload}
        completed(recipe, tiny_run | OWN[kind] | more, tmp_path / "log")
    assert_same_end(tmp_path / "a", tmp_path / "b")
