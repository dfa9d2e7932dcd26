from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from finetune.config.recipes import LoRATrainConfig, TokensConfig
from finetune.export.tokens import Vectors, save_tokens, token_differences, token_metadata
from finetune.export.verify import require_equal
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from tests.unit.export.test_metadata import CONFIG, FACTS, MODEL

FAMILY = StableDiffusion()


def metadata_of(vectors: Vectors, config: LoRATrainConfig = CONFIG) -> dict[str, dict[str, str]]:
    tokens = TokensConfig(names=tuple(vectors))
    return {name: token_metadata(name, parts, tokens, config, FACTS, MODEL, (0.4,)) for name, parts in vectors.items()}


def rows_of(num: int, width: int = 32) -> tuple[Tensor]:
    return (torch.randn(num, width, generator=torch.Generator().manual_seed(num)),)


def test_files_of_one_several_and_very_many_vectors_give_the_trained_output(tiny_model: Path, tmp_path: Path) -> None:
    """80 vectors exceed a chunk, which diffusers' prompt would cut."""
    vectors = {"<one>": rows_of(1), "<ink>": rows_of(3), "[many]": rows_of(80)}
    files = save_tokens(FAMILY, vectors, metadata_of(vectors), tmp_path)
    names = {"one", "ink", "many"}
    paths = {f"{name}.safetensors" for name in names} | {f"{name}/learned_embeds.safetensors" for name in names}
    assert {str(path.relative_to(tmp_path)) for path in files} == paths
    state = torch.random.get_rng_state()
    differences = token_differences(FAMILY, ModelSource(str(tiny_model)), vectors, files)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert differences.keys() == files.keys() and set(differences.values()) == {0.0}


def test_version_2_too(tiny_v_model: Path, tmp_path: Path) -> None:
    vectors = {"<ink>": rows_of(2, 1024)}
    files = save_tokens(FAMILY, vectors, metadata_of(vectors), tmp_path)
    assert set(token_differences(FAMILY, ModelSource(str(tiny_v_model)), vectors, files).values()) == {0.0}


@pytest.mark.parametrize("name", ["ink.safetensors", "ink/learned_embeds.safetensors"])
def test_a_file_that_holds_other_vectors_is_seen(name: str, tiny_model: Path, tmp_path: Path) -> None:
    vectors = {"<ink>": rows_of(2)}
    files = save_tokens(FAMILY, vectors, metadata_of(vectors), tmp_path)
    ((key, stored),) = safetensors.torch.load_file(tmp_path / name).items()
    safetensors.torch.save_file({key: stored.flip(0)}, tmp_path / name)
    differences = token_differences(FAMILY, ModelSource(str(tiny_model)), vectors, files)
    assert [path for path, value in differences.items() if value > 0] == [tmp_path / name]
    with pytest.raises(ValueError, match=Path(name).name):
        require_equal(differences)


def test_quantised_base_weights_are_told_of_alone_where_they_were() -> None:
    key = "token.base_weights_quantization"
    vectors = {"<ink>": rows_of(2)}
    assert key not in metadata_of(vectors)["<ink>"]
    quantized = replace(CONFIG, model=replace(CONFIG.model, quantization="nf4"))
    assert metadata_of(vectors, quantized)["<ink>"][key] == "nf4"


def test_vectors_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="<ink> holds values that are not finite"):
        save_tokens(FAMILY, {"<ink>": (torch.tensor([[1.0, float("nan")]]),)}, {"<ink>": {}}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_tells_of_its_token_and_of_no_folder(tmp_path: Path) -> None:
    vectors = {"<ink>": (torch.tensor([[3.0, 4.0], [0.0, 2.0]]),)}
    save_tokens(FAMILY, vectors, metadata_of(vectors), tmp_path)
    with safetensors.safe_open(tmp_path / "ink.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["token.norms"] == "5 2" and metadata["token.num_vectors"] == "2"
    assert metadata["token.base_model"] == "stable-diffusion-v1-5" and metadata["token.dataset"] == "ink"
    assert str(Path.home()) not in str(metadata)
