import pytest

from finetune.config.parse.usual_commands import usual_problem


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("merge a.safetensors", "finetune merge: no such command. Use: finetune lora merge"),
        ("tag images", "finetune tag: no such command. Use: python -m datasets_prep --source FOLDER --output PREPARED"),
        ("sample", "finetune sample: no such command. Use: finetune generate"),
        ("lora resize a.safetensors --new_rank 4", "--new_rank: an option of sd-scripts' tools. Use --rank N."),
        ("lora merge --ratios=0.5", "--ratios: an option of sd-scripts' tools. Use FILE:STRENGTH."),
        ("lora merge base a.safetensors --model.source base --output out", None),
        ("generate --model x", None),
        ("", None),
    ],
)
def test_words_of_other_tools_are_answered_with_ours(typed: str, ours: str | None) -> None:
    assert usual_problem(typed.split()) == ours
