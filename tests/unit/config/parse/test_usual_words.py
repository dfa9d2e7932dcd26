import pytest

from tests.unit.config.parse.test_command_line import mistakes


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("--lr 1e-4", "It is called optim.lr here."),
        ("--optim.learning_rate 1e-4", "It is called optim.lr here."),
        ("--lora.network_dim 8", "It is called lora.rank here."),
        ("--lora.r 8", "It is called lora.rank here."),
        ("--train.max_train_steps 9", "It is called train.steps here."),
        ("--data.path x", "It is called data.folder here."),
        ("--data.train_data_dir x", "It is called data.folder here."),
        ("--model.path m", "It is called model.source here."),
        ("--model.pretrained_model_name_or_path m", "It is called model.source here."),
        ("--optim.betas 0.9 0.99", "Give --optim.beta1 and --optim.beta2."),
        ("--fp8", "Use --model.quantization fp8."),
        ("--gpus 2", "give --num_processes before -m"),
        ("--deepspeed ds.json", "It belongs to accelerate launch"),
        ("--dry_run", "Use: finetune plan"),
        ("--data.no_flip", "Use --data.flip false."),
        ("--lora.rnak 8", "Did you mean lora.rank?"),
    ],
)
def test_usual_words_are_answered_with_ours(words: str, ours: str) -> None:
    assert ours in mistakes(*words.split())[0]


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("https://huggingface.co/owner/name", "Use owner/name."),
        ("huggingface.co/owner/name/", "Use owner/name."),
        ("hf://owner/name", "Use owner/name."),
        ("https://huggingface.co/owner/name/blob/main/x.safetensors", "Download the file"),
        ("https://civitai.com/models/123", "Download the file"),
    ],
)
def test_an_address_is_not_a_model(source: str, use: str) -> None:
    required = ("--data.folder", "images", "--output.folder", "out", "--model.source", source)
    (problem,) = mistakes(required=required)
    assert problem.startswith(f"model.source: got the address {source}, expected") and use in problem
