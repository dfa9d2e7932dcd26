import json
from pathlib import Path

import pytest

from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.config.parse.command_line import parse
from finetune.config.parse.dump import dump
from finetune.config.recipes import FullTrainConfig, LoRATrainConfig
from finetune.config.train import TrainConfig
from finetune.files import size_and_sha256
from finetune.run_folder.finished import finished_message

PRIOR = ("--instance.prompt", "a sks dog", "--prior.prompt", "a dog")


def config_of(kind: type[TrainConfig], out: Path, *more: str) -> TrainConfig:
    given = ["--model.source", "m", "--data.folder", "d", "--output.folder", str(out), *more]
    return parse(kind, given, program="r")


def write_checkpoint(out: Path, config: TrainConfig, step: int = 2) -> Path:
    """Write what of a checkpoint is looked at before torch is imported."""
    folder = out / "checkpoints" / f"step_{step:06d}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(config))
    (folder / "manifest.json").write_text(json.dumps({"config.yaml": size_and_sha256(folder / "config.yaml")}))
    return folder


@pytest.mark.parametrize(
    ("kind", "options", "line"),
    [
        (LoRATrainConfig, ("--lora.rank", "2"), "lora.rank: got 2, expected 16"),
        (LoRATrainConfig, ("--lora.targets", "to_q"), "lora.targets: got to_q, expected nothing"),
        (LoRATrainConfig, ("--lora.conv", "true"), "lora.conv: got true, expected false"),
        (LoRATrainConfig, ("--lora.dora", "true"), "lora.dora: got true, expected false"),
        (LoRATrainConfig, ("--lora.rank_pattern", "attn2=8"), "lora.rank_pattern: got attn2=8, expected nothing"),
        (LoRATrainConfig, ("--lora.kind", "lokr"), "lora.kind: got lokr, expected lora"),
        (LoRATrainConfig, ("--tokens.names", "<ink>"), "tokens.names: got <ink>, expected nothing"),
        (LoRATrainConfig, ("--train.text_encoder", "true", "--cache.text", "false"), "train.text_encoder: got true"),
        (LoRATrainConfig, ("--train.ema_decay", "0.9"), "train.ema_decay: got 0.9, expected none"),
        (LoRATrainConfig, ("--optim.name", "adafactor"), "optim.name: got adafactor, expected adamw"),
        (FullTrainConfig, ("--full.train", "attn2"), "full.train: got attn2, expected nothing"),
        (DreamBoothTrainConfig, (*PRIOR, "--method", "full"), "method: got full, expected lora"),
    ],
)
def test_a_fixed_option_is_refused_by_name_before_a_model_is_read(
    kind: type[TrainConfig], options: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    before = config_of(kind, tmp_path, *(PRIOR if kind is DreamBoothTrainConfig else ()))
    folder = write_checkpoint(tmp_path, before)
    assert finished_message(before) is None
    with pytest.raises(ValueError, match="cannot change within a run") as raised:
        finished_message(config_of(kind, tmp_path, *options))
    first, _ = str(raised.value).splitlines()
    assert first.startswith(line) and f"as in {folder}. Use --" in first


def test_other_options_may_change(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, config_of(LoRATrainConfig, tmp_path))
    more = ("--optim.lr", "1e-5", "--lora.dropout", "0.1", "--model.family", "sd", "--train.steps", "9")
    assert finished_message(config_of(LoRATrainConfig, tmp_path, *more)) is None


def test_every_changed_option_is_named_at_once(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, config_of(LoRATrainConfig, tmp_path))
    with pytest.raises(ValueError, match=r"lora.rank: got 2(.|\n)*lora.dora: got true"):
        finished_message(config_of(LoRATrainConfig, tmp_path, "--lora.rank", "2", "--lora.dora", "true"))


def test_a_checkpoint_that_resume_names_is_compared(tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", config_of(LoRATrainConfig, tmp_path / "other"))
    config = config_of(LoRATrainConfig, tmp_path / "new", "--resume", str(other), "--lora.rank", "2")
    with pytest.raises(ValueError, match=r"lora.rank: got 2.*Use --lora.rank 16(.|\n)*without --resume"):
        finished_message(config)


def test_damaged_options_of_the_newest_checkpoint_are_passed_over(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, config_of(LoRATrainConfig, tmp_path))
    newest = write_checkpoint(tmp_path, config_of(LoRATrainConfig, tmp_path), 1_000_000)
    text = (newest / "config.yaml").read_text()
    (newest / "config.yaml").write_text(text.replace("rank: 16", "rank: 17"))
    assert finished_message(config_of(LoRATrainConfig, tmp_path)) is None
