"""Merged pipelines against adapters beside the weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.cli import main
from finetune.config.sections import ModelConfig
from finetune.export.command import ExportConfig, export_model
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.export.verify import prediction, relative_difference
from finetune.lora_files.effect import measure_effect
from finetune.lora_files.merge import merge
from finetune.lora_files.options import EffectConfig, MergeConfig
from finetune.lora_files.show import show
from finetune.models.family import ModelSource
from finetune.sampling.adapters import load_adapters, set_all_strengths
from tests.parity.conftest import Export
from tests.support.adapter_models import FAMILY, KINDS, fresh


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_pipeline_is_the_base_model_with_its_adapters(
    kind: str, export: Export, source: ModelSource, tmp_path: Path
) -> None:
    """Merge every exported file and folder. The peft folder of rotations has no strength."""
    base = prediction(FAMILY, fresh(source))
    for number, name in enumerate(export(kind).differences):
        path, said = export(kind).folder / name, list[str]()
        strength = 1.0 if kind == "oft" and path.is_dir() else 0.7
        folder = tmp_path / str(number)
        config = MergeConfig(ModelConfig(source.location), folder, (f"{path}:{strength}",), dtype="fp32")
        merge(config, said.append)
        beside = fresh(source)
        adapters = load_adapters(FAMILY, beside, [path], [])
        set_all_strengths(adapters, [strength])
        merged = fresh(ModelSource(str(folder)))
        found = prediction(FAMILY, merged)
        assert relative_difference(prediction(FAMILY, beside), found) < 1e-5, name
        assert relative_difference(base, found) > 1e-3, name
        assert not any("lora" in key for key, _ in merged.denoiser.named_parameters())
        assert f"Merged {path.name} at {strength:g}" in said[0]
        if path.is_file():
            assert "layers:" in "".join(show(path)) and "not understood" not in "".join(show(path))


def test_two_files_are_merged_and_mistakes_are_named(
    export: Export, source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merge into a folder, and by the command into one file."""
    model, files = (
        ModelConfig(source.location),
        [export(kind).folder / "style.safetensors" for kind in ("lora", "loha")],
    )
    merge(
        MergeConfig(model, tmp_path / "both", tuple(f"{file}:0.5" for file in files), dtype="fp32"), lambda text: None
    )
    beside = fresh(source)
    adapters = load_adapters(FAMILY, beside, files, [])
    set_all_strengths(adapters, [0.5, 0.5])
    found = prediction(FAMILY, fresh(ModelSource(str(tmp_path / "both"))))
    assert relative_difference(prediction(FAMILY, beside), found) < 1e-5
    named = [
        "merge",
        source.location,
        *(f"{file}:0.5" for file in files),
        "--output",
        str(tmp_path / "both.safetensors"),
    ]
    monkeypatch.setattr("sys.argv", ["finetune", "lora", *named, "--dtype", "fp32"])
    main()
    single = fresh(ModelSource(str(tmp_path / "both.safetensors"), config=Path(source.location)))
    assert relative_difference(found, prediction(FAMILY, single)) < 1e-5
    with pytest.raises(ValueError, match=r"dtype: got fp8 for the folder new, expected it with a \.safetensors file"):
        MergeConfig(model, Path("new"), (str(files[0]),), dtype="fp8")
    with pytest.raises(ValueError, match=r"output: .*both exists already"):
        MergeConfig(model, tmp_path / "both", (str(files[0]),))
    with pytest.raises(ValueError, match=r"files: no file or folder absent\.safetensors"):
        MergeConfig(model, tmp_path / "new", ("absent.safetensors:0.8",))


def test_outputs_that_are_not_finite_are_named(export: Export, source: ModelSource, tmp_path: Path) -> None:
    file, model, new = export("lora").folder / "style.safetensors", ModelConfig(source.location), tmp_path / "merged"
    with pytest.raises(
        ValueError, match=r"with style\.safetensors at 1e\+30 the denoiser's output is not finite\. Use"
    ):
        merge(MergeConfig(model, new, (f"{file}:1e30",)), lambda text: None)
    said = list[str]()
    merge(MergeConfig(model, tmp_path / "same", (f"{file}:0",)), said.append)
    assert said[0] == "warning: files: style.safetensors at strength 0 changes nothing."
    damaged = fresh(source)
    with torch.no_grad():
        next(damaged.denoiser.parameters())[0] = float("nan")
    FAMILY.pipeline(damaged).save_pretrained(tmp_path / "nan")
    broken, words = ModelConfig(str(tmp_path / "nan")), r"model\.source: .*nan has NaN or infinite numbers in 1 weight"
    with pytest.raises(ValueError, match=words):
        merge(MergeConfig(broken, new, (str(file),)), lambda text: None)
    with pytest.raises(ValueError, match=words):
        measure_effect(EffectConfig(broken, (str(file),)), lambda text: None)
    with pytest.raises(ValueError, match=words):
        export_model(ExportConfig(broken, new.with_suffix(".safetensors")), lambda text: None)
    assert not new.exists()


def test_parts_that_the_base_model_lacks_are_never_ignored(export: Export, source: ModelSource, tmp_path: Path) -> None:
    """A second text encoder, as SDXL has it, in two layouts."""
    words = r"12 layers of 72 that .* lacks|24 tensors of parts that .* lacks: text_encoder_2"
    for name, old, new in (
        ("style.safetensors", "lora_te_", "lora_te2_"),
        (DIFFUSERS_FILE, "text_encoder.", "text_encoder_2."),
    ):
        tensors = load_file(export("lora").folder / name)
        more = {key.replace(old, new): value.clone() for key, value in tensors.items() if key.startswith(old)}
        save_file(tensors | more, tmp_path / name, {"format": "pt"})
        with pytest.raises(ValueError, match=words):
            load_adapters(FAMILY, fresh(source), [tmp_path / name], [])


@pytest.mark.parametrize("start", ["base_model.model.", "diffusion_model.", ""])
def test_names_that_diffusers_does_not_read_come_with_the_way_out(
    start: str, export: Export, source: ModelSource, tmp_path: Path
) -> None:
    tensors = load_file(export("lora").folder / DIFFUSERS_FILE)
    named = {key.replace("unet.", start, 1): value for key, value in tensors.items() if key.startswith("unet.")}
    save_file(named, tmp_path / "a.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"another base model.* If not, write it in another layout"):
        load_adapters(FAMILY, fresh(source), [tmp_path / "a.safetensors"], [])
