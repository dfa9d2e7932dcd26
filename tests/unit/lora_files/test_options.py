from pathlib import Path

import pytest

from finetune.config.sections import ModelConfig
from finetune.lora_files.options import ConvertConfig, EffectConfig, MergeConfig
from finetune.lora_files.show import show


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder, of which a file is in export."""
    (tmp_path / "ink" / "export").mkdir(parents=True)
    (tmp_path / "ink" / "export" / "ink.safetensors").touch()
    return tmp_path / "ink"


@pytest.mark.parametrize("name", ["merged.ckpt", "merged.PT", "merged.gguf"])
def test_a_merged_model_is_a_folder_or_safetensors(name: str, run: Path, tmp_path: Path) -> None:
    file = str(run / "export" / "ink.safetensors")
    with pytest.raises(ValueError, match=r"expected a new folder or a name that ends with \.safetensors"):
        MergeConfig(ModelConfig("base"), tmp_path / name, (file,))
    MergeConfig(ModelConfig("base"), tmp_path / "version1.5", (file,))


def test_a_run_folder_is_answered_with_its_file(run: Path, tmp_path: Path) -> None:
    model, there = ModelConfig("base"), r"Give a file in it: .*ink/export/ink\.safetensors"
    with pytest.raises(ValueError, match=there):
        MergeConfig(model, tmp_path / "merged", (f"{run}:0.7",))
    with pytest.raises(ValueError, match=there):
        EffectConfig(model, (str(run),))
    with pytest.raises(ValueError, match=there):
        ConvertConfig(model, tmp_path / "converted.safetensors", "kohya", (str(run),))
    with pytest.raises(ValueError, match=there):
        show(run)


def test_a_folder_of_peft_is_taken(tmp_path: Path) -> None:
    (tmp_path / "peft" / "unet").mkdir(parents=True)
    (tmp_path / "peft" / "unet" / "adapter_config.json").write_text("{}")
    EffectConfig(ModelConfig("base"), (str(tmp_path / "peft"),))
