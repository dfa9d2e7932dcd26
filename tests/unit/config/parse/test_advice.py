import pytest

from finetune.config.parse.advice import as_number
from tests.unit.config.parse.test_command_line import mistakes


@pytest.mark.parametrize(
    ("text", "whole", "expected"),
    [
        ("0,0001", False, "0.0001"),
        ("1e\N{MINUS SIGN}4", False, "0.0001"),
        ("10^-4", False, "0.0001"),
        ("1/10000", False, "0.0001"),
        ("10%", False, "0.1"),
        ("1,000,000", False, "1e+06"),
        ("1.000", True, "1000"),
        ("1,000", True, "1000"),
        ("1e3", True, "1000"),
        ("2k", True, "2000"),
        ("512px", True, "512"),
        ("“8”", True, "8"),
        ("[2]", True, "2"),
        ("1.5", True, ""),
        ("ten", True, ""),
        ("1/0", False, ""),
        ("1e999", False, ""),
        ("1.2.3k", True, ""),
    ],
)
def test_numbers_in_other_spellings_are_rewritten(text: str, whole: bool, expected: str) -> None:
    assert as_number(text, whole=whole) == expected


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("--data.resolution", "512x512"), "It is one side of a square. Write 512."),
        (("--data.resolution", "512,768"), "whose area 512 x 768 has at 640; images keep their shapes"),
        (("--data.resolution", "512", "768"), "whose area 512 x 768 has at 640"),
        (("--preview.size", "512x768"), "belongs to the prompt: a cat --w 512 --h 768"),
        (("--optim.lr", "0,0001"), "got 0,0001, expected a number. Write 0.0001."),
        (("--optim.lr", "auto"), "Use --goal style or --goal subject"),
        (("--optim.name", "torch.optim.AdamW"), "Did you mean adamw?"),
        (("--loss.snr_gamma", "off"), "Use --loss.weighting none."),
        (("--tracking.names", "wandb,tensorboard"), "Separate them by spaces: --tracking.names wandb tensorboard."),
        (("--tracking.names", "none"), "write --tracking.names without a value"),
        (("--preview.prompts", '["a cat", "a dog"]'), "Write 'a cat' 'a dog'."),
        (("--lora.targets", "to_q,to_k"), "Separate them by spaces: to_q to_k."),
        (("--lora.targets", "all-linear"), "Omit it for the usual ones."),
        (("--seed", "7", "-lr", "1e-4"), "-lr: options begin with two hyphens."),
        (("--seed", "7", "train.steps:", "3"), "train.steps:: options begin with two hyphens. Write --train.steps."),
        (("--seed", "7", "lora.rank:8"), "options begin with two hyphens. Write --lora.rank 8."),
        (("--seed", "=", "7"), "=: expected --NAME VALUE or --NAME=VALUE"),
        (("--seed=", "7"), "Write --seed=7, without a space behind the =."),
        (("--seed", "7", "WANDB_MODE=offline"), "A variable is set before the command"),
        (("--seed", "7", "num_processes=2"), "Write --num_processes=2."),
        (("--seed", "7", "recipes.lora"), "The recipe is named before all options"),
        (("--seed", "7", "sd15_lora_style"), "A preset or YAML file is an option: --config sd15_lora_style."),
        (("--data.folder", "more"), "and then more. Keep one, or give all to --data.folders."),
        (("--DATA_FOLDER", "more"), "Did you mean data.folder?"),
        (("--train.seed", "7"), "Did you mean seed?"),
        (("--preset", "sd15_lora_style"), "Use --config FILE, or a preset's name."),
        (("--main_process_port", "1"), "It belongs to accelerate launch: give --main_process_port before -m."),
        (("--token", "x"), "Words to learn are tokens.names."),
    ],
)
def test_what_people_type_is_answered_with_ours(words: tuple[str, ...], advice: str) -> None:
    assert advice in "\n".join(mistakes(*words))


def test_words_with_a_hyphen_and_infinities_are_values() -> None:
    assert mistakes("--optim.lr", "-1e-4") == ["optim.lr: got -0.0001, expected a number above 0."]
    assert mistakes("--optim.lr", "-inf") == ["optim.lr: got -inf, expected a finite number."]
    assert "expected a number." in mistakes("--optim.lr", "-")[0]
