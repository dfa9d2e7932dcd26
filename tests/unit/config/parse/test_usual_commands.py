import pytest

from finetune.config.parse.usual_commands import usual_problem


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
        ("generate --model x", None),
        ("", None),
    ],
)
def test_words_of_other_tools_are_answered_with_ours(typed: str, ours: str | None) -> None:
    assert usual_problem(typed.split()) == ours
