"""Effects of adapters on rounded weights."""

from pathlib import Path

import pytest
import torch

from finetune.cli import main
from finetune.config.sections import ModelConfig
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.export.verify import prediction, relative_difference
from finetune.files import file_sha256
from finetune.lora_files.effect import measure_effect
from finetune.lora_files.options import EffectConfig
from finetune.models.family import ModelSource
from finetune.models.quantized.packed import pack_layers
from finetune.sampling.adapters import load_adapters, set_all_strengths
from tests.parity.conftest import Export
from tests.support.adapter_models import FAMILY, fresh


def effect_beside(source: ModelSource, file: Path, *, packed: bool) -> torch.Tensor:
    """Compute what a file changes beside packed layers, or beside others."""
    components = fresh(source)
    if packed:
        pack_layers(components.denoiser, "int8", double=True, device=torch.device("cpu"), dtype=torch.float32)
    before = prediction(FAMILY, components)
    adapters = load_adapters(FAMILY, components, [file], [])
    set_all_strengths(adapters, [1.0])
    return prediction(FAMILY, components) - before


def test_formats_lose_what_their_steps_are_too_coarse_for(
    export: Export, source: ModelSource, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measure a small strength, and compare the formats. The base model is only read."""
    weights = sorted(Path(source.location).glob("*/*.safetensors"))
    hashes = [file_sha256(path) for path in weights]
    file = export("lora").folder / "style.safetensors"
    config = EffectConfig(ModelConfig(source.location), (f"{file}:0.05",), ("bf16", "fp8", "int8"))
    found = measure_effect(config)
    assert 0 < max(found["bf16"].rounding, found["int8"].rounding) < found["fp8"].rounding < 0.5
    for kind, effects in found.items():
        assert effects.beside.error < min(effects.merged_first.error, effects.merged_last.error), kind
        assert effects.beside.cosine > effects.merged_last.cosine, kind
    assert found["bf16"].beside.error < 0.05 and abs(found["bf16"].beside.lost) < 0.05
    assert found["fp8"].merged_last.error > 0.3  # most changes are below half a step
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("style.safetensors at 0.05: the output of ")
    assert [line.split()[0] for line in lines[3:]] == ["bf16", "fp8", "int8"]
    assert hashes == [file_sha256(path) for path in weights]


def test_scaled_formats_are_those_of_a_quantised_run(export: Export, source: ModelSource) -> None:
    """Compare with packed layers."""
    file = export("lora").folder / DIFFUSERS_FILE
    found = measure_effect(EffectConfig(ModelConfig(source.location), (str(file),), ("int8",)), lambda text: None)
    exact, packed = (effect_beside(source, file, packed=packed) for packed in (False, True))
    expected = relative_difference(exact, packed)
    assert expected > 1e-4 and found["int8"].beside.error == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("{file}:0",), "files: the adapters change nothing"),
        (("{file}", "--formats", "int7"), "formats"),
        (("absent.safetensors",), "files: no file or folder absent.safetensors"),
        ((), "files: missing, expected the base model and adapters"),
    ],
)
def test_mistakes_are_named(
    words: tuple[str, ...],
    expected: str,
    export: Export,
    source: ModelSource,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = export("lora").folder / "style.safetensors"
    given = [word.format(file=file) for word in words]
    monkeypatch.setattr("sys.argv", ["finetune", "lora", "effect", source.location, *given])
    with pytest.raises(SystemExit):
        main()
    assert expected in capsys.readouterr().err
