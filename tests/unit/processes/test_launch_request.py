from pathlib import Path

import pytest
from accelerate.commands.config.config_args import default_yaml_config_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from finetune.processes.launch_request import refuse_launch, unread_config

CONFIGS = Path(__file__).parents[3] / "accelerate_configs"


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version: got 1"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params: got true"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "fsdp_auto_wrap_policy"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block"}, "the blocks are known"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "train.gradient_checkpointing true"),
        ({"ACCELERATE_USE_DEEPSPEED": "True"}, "DeepSpeed"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2"}, "tensor"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "--train.accumulation 4"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "dynamo_backend"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed_precision: got fp8"),
        ({"ACCELERATE_TORCH_DEVICE": "cuda:0", "WORLD_SIZE": "2"}, "ACCELERATE_TORCH_DEVICE"),
    ],
)
def test_what_training_would_not_do_is_refused(environment: dict[str, str], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        refuse_launch(environment, {})


def test_what_the_shipped_configs_set_is_accepted() -> None:
    refuse_launch({}, {})
    own = {"USE_CPU": "True", "MIXED_PRECISION": "bf16", "DYNAMO_BACKEND": "NO", "USE_FSDP": "false"}
    own |= {"GRADIENT_ACCUMULATION_STEPS": "1"}
    environment = {f"ACCELERATE_{name}": value for name, value in own.items()}
    refuse_launch(environment | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, {})


def test_several_processes_of_which_one_was_started_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    config = ["--config_file", str(CONFIGS / "cpu.yaml"), "--num_processes", "2"]
    arguments = launch_command_parser().parse_args([*config, "-m", "recipes.lora"])
    _, environment = prepare_simple_launcher_cmd_env(_validate_launch_command(arguments)[0])
    with pytest.raises(ValueError, match="num_processes: got 1 process"):
        refuse_launch(environment, {})
    refuse_launch(environment, {"MASTER_ADDR": "10.0.0.1"})  # set by the cluster, so it tells nothing


def test_machines_meet_where_the_shipped_config_and_its_command_say() -> None:
    config = ["--config_file", str(CONFIGS / "multi_node.yaml"), "--num_processes", "16", "--machine_rank", "1"]
    words = [*config, "--rdzv_backend", "c10d", "--main_process_ip", "node-a.example", "-m", "recipes.lora"]
    arguments = _validate_launch_command(launch_command_parser().parse_args(words))[0]
    refuse_launch(prepare_multi_gpu_env(arguments) | {"WORLD_SIZE": "16"}, {})
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint) == ("c10d", "node-a.example:29400")
    assert (arguments.nnodes, arguments.nproc_per_node) == ("2", "8")


def test_a_config_that_only_the_launcher_reads_is_named(tmp_path: Path) -> None:
    environment = {"HF_HOME": str(tmp_path)}
    assert unread_config(environment, "recipes.lora") is None
    (tmp_path / "accelerate").mkdir()
    file = tmp_path / "accelerate" / "default_config.yaml"
    file.write_text("mixed_precision: bf16\nnum_processes: 2\n")
    note = unread_config(environment, "recipes.lora") or ""
    assert f"{file} (mixed_precision bf16, num_processes 2)" in note and "accelerate launch -m recipes.lora" in note
    assert unread_config(environment | {"ACCELERATE_MIXED_PRECISION": "no"}, "recipes.lora") is None
    file.write_text("a: [")
    assert str(file) in (unread_config(environment, "recipes.lora") or "")
    assert default_yaml_config_file.endswith("huggingface/accelerate/default_config.yaml")
