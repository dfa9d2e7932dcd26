from pathlib import Path

import pytest

from finetune.config.drawing.generate import GenerateConfig
from finetune.config.sections import ModelConfig
from finetune.export.command import ExportConfig
from finetune.lora_files.options import ConvertConfig, EffectConfig, MergeConfig
from finetune.lora_files.resize import ResizeOptions, resize
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


@pytest.mark.parametrize("strength", ["nan", "inf", "-inf", "1e999"])
def test_a_strength_is_finite(strength: str, run: Path, tmp_path: Path) -> None:
    file = f"{run / 'export' / 'ink.safetensors'}:{strength}"
    with pytest.raises(ValueError, match=r"files: got strength -?(nan|inf) of .*ink\.safetensors, expected a number"):
        MergeConfig(ModelConfig("base"), tmp_path / "merged", (file,))
    with pytest.raises(ValueError, match=r"lora: got strength .*:0\.8"):
        GenerateConfig(ModelConfig("base"), ("a boat",), tmp_path / "images", lora=(file,))


def test_a_file_is_given_once(run: Path, tmp_path: Path) -> None:
    file = run / "export" / "ink.safetensors"
    (tmp_path / "link.safetensors").symlink_to(file)
    for other in (f"{file}:0.5", str(tmp_path / "link.safetensors")):
        with pytest.raises(ValueError, match=r"is given 2 times\. Give it once, with the sum of the strengths"):
            MergeConfig(ModelConfig("base"), tmp_path / "merged", (f"{file}:-1", other))


@pytest.mark.parametrize("ending", ["", ".safetensors"])
def test_outputs_that_cannot_be_written_are_refused_before_the_work(ending: str, run: Path, tmp_path: Path) -> None:
    file, link = run / "export" / "ink.safetensors", tmp_path / f"link{ending}"
    link.symlink_to(tmp_path / "nowhere")
    for output, words in (
        (link, "exists already as a link to .*nowhere"),
        (file / f"merged{ending}", rf"{file} is not a folder, expected one for merged{ending}"),
        (tmp_path / "merged.SAFETENSORS", r"expected a new folder or a name that ends with \.safetensors"),
    ):
        with pytest.raises(ValueError, match=words):
            MergeConfig(ModelConfig("base"), output, (str(file),))
    with pytest.raises(ValueError, match="is not a folder"):
        resize(ResizeOptions(file, file / "new.safetensors", rank=1))
    with pytest.raises(ValueError, match="is not a folder"):
        ExportConfig(ModelConfig("base"), file / "new.safetensors")
