from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from finetune.run.threads import all_cores, is_users_choice, num_cores, share_cores

CONFIGS = Path(__file__).parents[3] / "accelerate_configs"
LAUNCHED = {"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}


@pytest.mark.parametrize(
    ("own", "launcher", "arguments", "expected"),
    [
        ({}, {}, [], False),
        ({"OMP_NUM_THREADS": "1"}, {}, [], True),  # no launcher: the user started this process
        (LAUNCHED, {}, ["accelerate", "launch"], False),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, {}, ["torchrun"], False),
        (LAUNCHED, {"OMP_NUM_THREADS": "1"}, ["accelerate", "launch"], True),
        (LAUNCHED | {"OMP_NUM_THREADS": "4"}, {}, ["accelerate", "launch"], True),
        (LAUNCHED, {}, ["accelerate", "launch", "--num_cpu_threads_per_process", "1"], True),
        (LAUNCHED, {}, ["accelerate", "launch", "--num_cpu_threads_per_process=1"], True),
    ],
)
def test_a_launchers_default_is_told_from_the_users_number(
    own: dict[str, str], launcher: dict[str, str], arguments: list[str], expected: bool
) -> None:
    assert is_users_choice(own, launcher, arguments) is expected


def test_a_number_that_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = torch.get_num_threads()
    share_cores()
    with all_cores():
        assert torch.get_num_threads() == before


def test_cores_are_shared_and_an_export_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    before = torch.get_num_threads()
    try:
        share_cores()
        assert torch.get_num_threads() == max(1, num_cores() // 2)
        with all_cores():
            assert torch.get_num_threads() == num_cores()
        assert torch.get_num_threads() == max(1, num_cores() // 2)
    finally:
        torch.set_num_threads(before)


def test_the_gpu_that_the_user_made_visible_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    config = ["--config_file", str(CONFIGS / "single_gpu.yaml"), "--mixed_precision", "no"]
    arguments = launch_command_parser().parse_args([*config, "-m", "recipes.lora"])
    _, environment = prepare_simple_launcher_cmd_env(_validate_launch_command(arguments)[0])
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
