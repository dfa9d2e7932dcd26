from pathlib import Path

import pytest

from tests.support.runs import Options, completed, refused

CANARIES = {
    "HF_TOKEN": "hf_" + "CanaryOfTheHub" * 2 + "Aa",
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "c0ffee00",
    "HUGGINGFACE_TOKEN": "a-token-of-no-known-form",
}


def test_no_token_of_the_environment_is_in_any_file(small_run: Options, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = small_run | {"output.folder": out, "tracking.names": ("wandb", "tensorboard"), "tracking.mode": "offline"}
    completed("lora", options | {"train.steps": 2}, tmp_path / "log", environment=CANARIES)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert any("tfevents" in path.name for path in files)
    for path in [*files, tmp_path / "log"]:
        for name, secret in CANARIES.items():
            assert secret.encode() not in path.read_bytes(), f"{name} is in {path}"


@pytest.mark.parametrize("name", CANARIES)
@pytest.mark.parametrize(
    "option", ["tracking.run_name", "model.source", "output.folder", "tracking.tags", "data.folder"]
)
def test_an_option_that_holds_a_token_is_refused(option: str, name: str, small_run: Options, tmp_path: Path) -> None:
    secret = CANARIES[name]
    value = tmp_path / secret / "out" if option == "output.folder" else f"https://user:{secret}@host/model"
    options = small_run | {"output.folder": tmp_path / "out"} | {option: value}
    assert secret not in refused("lora", options, tmp_path / "log", option, "token", environment={name: secret})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]
