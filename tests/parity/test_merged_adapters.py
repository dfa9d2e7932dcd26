"""Merged pipelines against adapters beside the weights."""

from pathlib import Path

import pytest

from finetune.cli import main
from finetune.config.sections import ModelConfig
from finetune.export.verify import prediction, relative_difference
from finetune.lora_files.merge import merge
from finetune.lora_files.options import MergeConfig
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
