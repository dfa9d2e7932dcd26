from finetune.config.parse.command_line import parse
from finetune.config.recipes import FullTrainConfig, LoRATrainConfig
from finetune.planning.ladder import LADDER, next_options, with_rung

REQUIRED = ("--model.source", "model", "--data.folder", "pictures", "--output.folder", "out")


def climbed(kind: type, *arguments: str, processes: int = 1) -> list[str]:
    config, titles = parse(kind, [*REQUIRED, *arguments], program="test"), []
    for rung in LADDER:
        changed = with_rung(config, rung, num_processes=processes, is_bf16=True)
        if changed is not None:
            config, titles = changed, [*titles, rung.title]
    return titles


def test_adapters_climb_past_what_saves_on_all_weights() -> None:
    titles = climbed(LoRATrainConfig, "--cache.latents", "false", "--train.batch_size", "4")
    assert titles[:3] == ["cache latents", "checkpointing", "one image in a pass"]
    assert titles[-1] == "base model in host memory" and "8-bit optimizer" not in titles


def test_all_weights_are_neither_packed_nor_moved() -> None:
    titles = climbed(FullTrainConfig)
    assert titles == ["8-bit optimizer", "bfloat16 weights", "updates in the backward pass", "checkpointing"]
    assert "updates in the backward pass" not in climbed(FullTrainConfig, processes=2)
    assert climbed(FullTrainConfig, "--optim.name", "adafactor")[0] == "bfloat16 weights"


def test_captions_are_not_cached_while_their_encoder_trains() -> None:
    trained = ("--train.text_encoder", "true", "--cache.text", "false")
    assert "cache captions" not in climbed(LoRATrainConfig, *trained)


def test_the_next_options_are_ready_to_paste() -> None:
    config = parse(LoRATrainConfig, [*REQUIRED, "--train.batch_size", "4"], program="test")
    assert next_options(config, num_processes=1) == "--train.gradient_checkpointing true"
    more = ("--train.gradient_checkpointing", "true", "--train.batch_size", "4", "--train.accumulation", "2")
    config = parse(LoRATrainConfig, [*REQUIRED, *more], program="test")
    assert next_options(config, num_processes=1) == "--train.batch_size 1 --train.accumulation 8"
