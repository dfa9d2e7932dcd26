"""Configs of the GUI lora-scripts, which are those of sd-scripts and more."""

from pathlib import Path

from finetune.imports.command import import_config

OWN = """model_train_type = "sd-lora"
pretrained_model_name_or_path = "model.safetensors"
train_data_dir = "ink"
network_module = "networks.lora"
network_dim = 32
enable_preview = true
positive_prompts = "a boat"
sample_width = 512
lycoris_algo = "lokr"
optimizer_args_custom = ["weight_decay=0.01"]
noise_offset_strength = 0.1
"""


def test_its_own_options_are_answered_with_ours(tmp_path: Path) -> None:
    said, file = list[str](), tmp_path / "theirs.toml"
    file.write_text(OWN)
    import_config(file, [], tmp_path / "new.yaml", said.append)
    text = "\n".join(said)
    assert "Unknown among the options" not in text and "network_dim 32 -> lora.rank 32" in text
    for words in ("positive_prompts a boat: it is a prompt of preview.prompts", "sample_width 512: a prompt", "--w."):
        assert words in text
    assert "noise_offset_strength 0.1: it is noise_offset of sd-scripts: loss.offset_noise" in text
