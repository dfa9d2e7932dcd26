from pathlib import Path

import pytest

from finetune.run.finish import artifact_name


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".", "ink"),
        ("ink.safetensors", "ink"),
        ("pytorch_lora_weights.safetensors", "ink-pytorch_lora_weights"),
        ("peft/unet", "ink-peft-unet"),
        ("v1.5", "ink-v1.5"),
    ],
)
def test_each_exported_format_has_an_artifact_of_its_own(path: str, expected: str) -> None:
    assert artifact_name("ink", Path("export") / path, Path("export")) == expected
