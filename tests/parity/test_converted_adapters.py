"""LoRA files in every layout and back, and extracted ones."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from finetune.cli import main
from finetune.config.lora import LoRAConfig
from finetune.config.sections import ModelConfig
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.export.verify import prediction, relative_difference
from finetune.lora_files.convert import convert
from finetune.lora_files.extract import extract
from finetune.lora_files.options import ConvertConfig, ExtractConfig
from finetune.lora_files.resize import ResizeOptions, resize
from finetune.lora_files.show import read
from finetune.methods.lora.method import LoRA
from finetune.models.families.flux import Flux
from finetune.models.family import ModelSource
from tests.parity.conftest import Export
from tests.parity.test_resized_adapters import output_with
from tests.parity.test_started_adapters import started
from tests.support.adapter_models import FAMILY, fresh, trained_model
from tests.tiny import flux

CHAIN = (("diffusers", "a.safetensors"), ("original", "b.safetensors"), ("peft", "c"), ("kohya", "d.safetensors"))


def chained(source: ModelSource, file: Path, folder: Path, said: list[str]) -> Path:
    """Convert a file to each layout in turn; return the last."""
    for layout, name in CHAIN:
        model = ModelConfig(source.location)
        file = convert(ConvertConfig(model, folder / name, layout, (str(file),)), said.append)  # pyright: ignore[reportArgumentType]
    return file


def assert_equal(one: Path, other: Path) -> None:
    (before, old), (after, new) = read(one), read(other)
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert [key for key in old if key not in ("lora_adapter_metadata", "format") and old[key] != new[key]] == []


@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_every_layout_and_back_is_bit_equal(kind: str, export: Export, source: ModelSource, tmp_path: Path) -> None:
    file, said = export(kind).folder / "style.safetensors", list[str]()
    assert_equal(file, chained(source, file, tmp_path, said))
    trained = output_with(source, file)
    assert relative_difference(trained, output_with(source, tmp_path / "a.safetensors")) < 1e-5
    for name in ("b.safetensors", "c"):
        assert relative_difference(trained, started(source, tmp_path / name)[0]) < 1e-5
    assert any("scale 1.625" in line and "metadata alone" in line for line in said) == (kind == "lora")
    assert "no layer's change differs by more than 0.0e+00 relative" in said[-1]


def test_fused_layers_come_back_as_they_were(tmp_path: Path) -> None:
    """Ranks and scales differ between layers that are one in the file."""
    source, family = ModelSource(str(flux.save_pipeline(tmp_path / "flux"))), Flux()
    config = LoRAConfig(rank=4, alpha=2, rank_pattern=("to_k=2",))
    LoRA(config).export(trained_model(source, config, family=family), tmp_path)
    file = tmp_path / DIFFUSERS_FILE
    kohya = chained(source, file, tmp_path, [])
    model = ModelConfig(source.location)
    back = convert(ConvertConfig(model, tmp_path / "e.safetensors", "diffusers", (str(kohya),)), lambda text: None)
    assert_equal(file, back)
    shared = shared_down(kohya, tmp_path / "shared.safetensors")
    (tmp_path / "second").mkdir()
    assert_equal(shared, chained(source, shared, tmp_path / "second", []))


def shared_down(file: Path, target: Path) -> Path:
    """Write a file as sd-scripts trains it. A fused layer has one down for all its parts."""
    tensors, noise = read(file)[0], torch.Generator().manual_seed(0)
    for key, value in tensors.items():
        if "lora_unet" in key and key.endswith("up.weight"):
            tensors[key] = torch.randn(value.shape, generator=noise)
    safetensors.torch.save_file(tensors, target)
    return target


def test_another_number_format_is_rounded_and_compared(export: Export, source: ModelSource, tmp_path: Path) -> None:
    file, said = export("lora").folder / "style.safetensors", list[str]()
    model, target = ModelConfig(source.location), tmp_path / "half.safetensors"
    convert(ConvertConfig(model, target, "kohya", (str(file),), dtype="fp16"), said.append)
    found = safetensors.torch.load_file(target)
    assert {value.dtype for key, value in found.items() if key.endswith("weight")} == {torch.float16}
    assert relative_difference(output_with(source, file), output_with(source, target)) < 1e-3


def test_a_tuned_models_changes_become_a_lora(
    source: ModelSource, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tuned, noise = fresh(source), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in tuned.denoiser.named_parameters():
            if "attn" in name and weight.ndim == 2:
                low = torch.randn(weight.shape[0], 3, generator=noise) @ torch.randn(
                    3, weight.shape[1], generator=noise
                )
                weight += 0.05 * low
            elif "norm" in name:
                weight += 0.01
    FAMILY.pipeline(tuned).save_pretrained(tmp_path / "tuned")
    said = list[str]()
    options = {"model": ModelConfig(source.location), "tuned": str(tmp_path / "tuned"), "dtype": "fp32"}
    path = extract(ExtractConfig(output=tmp_path / "ink.safetensors", energy=0.999999, **options), said.append)
    assert "rank 3;" in said[1] and "changed weights of norms" in said[0]
    wanted, reached = prediction(FAMILY, tuned), output_with(source, path)
    base = prediction(FAMILY, fresh(source))
    assert relative_difference(wanted, reached) < 0.3 * relative_difference(wanted, base)
    options = ["--rank", "2", "--output", str(tmp_path / "b"), "--to", "peft"]
    main_with("lora", "extract", str(tmp_path / "tuned"), source.location, *options)
    assert "rank 2;" in capsys.readouterr().out and (tmp_path / "b" / "unet" / "adapter_config.json").is_file()


def main_with(*words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["finetune", *words])
        main()


def test_mistakes_are_named(export: Export, source: ModelSource, tmp_path: Path) -> None:
    model, file = ModelConfig(source.location), export("lora").folder / "style.safetensors"
    new, loha = tmp_path / "new.safetensors", export("loha").folder / "style.safetensors"
    for make, words in (
        (lambda: ConvertConfig(model, new, "kohya"), "files: got 0, expected one LoRA"),
        (lambda: ConvertConfig(model, new, "peft", (str(file),)), "with layout peft, expected a folder"),
        (lambda: ConvertConfig(model, tmp_path / "new", "kohya", (str(file),)), "ends with .safetensors"),
        (lambda: ConvertConfig(model, file, "kohya", (str(file),)), "exists already"),
        (lambda: ExtractConfig(model, "tuned", new), "one of --rank N and --energy"),
        (lambda: ExtractConfig(model, "tuned", new, rank=2, energy=0.5), "one of --rank N and --energy"),
        (lambda: convert(ConvertConfig(model, new, "kohya", (str(loha),))), "other kinds"),
        (lambda: extract(ExtractConfig(model, source.location, new, rank=2)), "differs from"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    assert not new.exists()


@pytest.mark.parametrize("end", ["to_q.weight", "norm1.weight"])
def test_a_model_with_numbers_that_are_not_finite_is_named(end: str, source: ModelSource, tmp_path: Path) -> None:
    """Norms count too. They cannot be in a LoRA, but make every output infinite."""
    damaged = fresh(source)
    name = next(name for name, _ in damaged.denoiser.named_parameters() if name.endswith(end))
    with torch.no_grad():
        damaged.denoiser.get_parameter(name).view(-1)[0] = float("inf")
    FAMILY.pipeline(damaged).save_pretrained(tmp_path / "damaged")
    new, broken = tmp_path / "new.safetensors", str(tmp_path / "damaged")
    for tuned, base, option in ((broken, source.location, "tuned"), (source.location, broken, r"model\.source")):
        with pytest.raises(ValueError, match=rf"{option}: .*damaged has NaN or infinite numbers in 1 .*{name}"):
            extract(ExtractConfig(ModelConfig(base), tuned, new, rank=2))
    assert not new.exists()


def test_a_tuned_model_that_does_not_load_is_named_as_such(export: Export, source: ModelSource, tmp_path: Path) -> None:
    file = str(export("lora").folder / "style.safetensors")
    for tuned in (file, str(tmp_path / "missing")):
        with pytest.raises((ValueError, OSError), match=r"^tuned: "):
            extract(ExtractConfig(ModelConfig(source.location), tuned, tmp_path / "new.safetensors", rank=2))


def test_weights_too_large_for_a_format_name_the_option(export: Export, source: ModelSource, tmp_path: Path) -> None:
    tensors = {key: value if "alpha" in key else value * 1e6 for key, value in export("lora").tensors().items()}
    safetensors.torch.save_file(tensors, tmp_path / "large.safetensors")
    file, new = tmp_path / "large.safetensors", tmp_path / "new.safetensors"
    with pytest.raises(ValueError, match=r"^dtype: .* too large for fp16\. Use --dtype bf16"):
        convert(ConvertConfig(ModelConfig(source.location), new, "kohya", (str(file),), dtype="fp16"))
    with pytest.raises(ValueError, match=r"^dtype: .* too large for fp16\. Use --dtype bf16"):
        resize(ResizeOptions(file, new, rank=2, dtype="fp16"))
