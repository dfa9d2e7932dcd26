from argparse import ArgumentParser

import pytest

from finetune.command_options import add_compare, add_import, add_lora, add_plan, add_rate, add_records, add_wandb_view
from finetune.config.parse.usual_commands import COMMAND_NAMES, usual_problem


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("merge a.safetensors", "finetune merge: no such command. Use: finetune lora merge"),
        ("tag images", "finetune tag: no such command. Use: python -m datasets_prep --source FOLDER --output PREPARED"),
        ("sample", "finetune sample: no such command. Use: finetune generate"),
        ("lora resize a.safetensors --new_rank 4", "--new_rank: no such option. Use --rank N."),
        ("lora merge --ratios=0.5", "--ratios: no such option. Use FILE:STRENGTH."),
        ("lora convert a.safetensors --format kohya", "--format: no such option. Use --to LAYOUT."),
        ("lora merge base a.safetensors --alpha 0.5", "--alpha: no such option. Use FILE:STRENGTH."),
        ("lora resize a.safetensors -r 8", "-r: no such option. Use --rank N."),
        ("lora train", "finetune lora train: no such command. Use: python -m recipes.lora OPTIONS"),
        ("lora info a.safetensors", "finetune lora info: no such command. Use: finetune lora show FILE"),
        ("resume", "finetune resume: no such command. Use: the command that started the run, again"),
        ("lora merge base a.safetensors --model.source base --output out", None),
        ("lora merge base a.safetensors --ratio 0.5", "--ratio: no such option. Use FILE:STRENGTH."),
        ("Lora show a.safetensors", "finetune Lora: no such command. Use: finetune lora"),
        ("lora Show a.safetensors", "finetune lora Show: commands are in lower case. Use: finetune lora show"),
        ("merge-lora a", "finetune merge-lora: no such command. Use: finetune lora merge"),
        ("wandb_view run", "finetune wandb_view: no such command. Use: finetune wandb-view"),
        ("a.safetensors", "finetune a.safetensors: expected a command. Use: finetune lora show a.safetensors"),
        (
            "lora a.safetensors",
            "finetune lora a.safetensors: expected a command. Use: finetune lora show a.safetensors",
        ),
        ("a.toml", "Use: python -m RECIPE --config a.toml; of others: finetune import a.toml"),
        ("accelerate launch", "accelerate is a program of its own. Omit finetune: accelerate launch"),
        ("--config a.yaml", "expected a command before options. To train: python -m RECIPE OPTIONS"),
        ("--help", None),
        ("lora.rank 8", None),
        ("generate --model x", None),
        ("", None),
    ],
)
def test_words_of_other_tools_are_answered_with_ours(typed: str, ours: str | None) -> None:
    problem = usual_problem(typed.split())
    assert problem == ours if ours is None else ours in str(problem)


def test_commands_are_those_of_the_program() -> None:
    parser = ArgumentParser()
    commands = parser.add_subparsers()
    for add in (add_plan, add_compare, add_records, add_rate, add_wandb_view, add_lora, add_import):
        add(commands)
    assert set(commands.choices) <= set(COMMAND_NAMES)
