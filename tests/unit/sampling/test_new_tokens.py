from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from finetune.export.tokens import encoded, save_tokens, with_vectors
from finetune.models import family_named
from finetune.models.family import ModelFamily, ModelSource
from finetune.sampling.new_tokens import load_tokens
from tests.support.families import save_tiny_pipeline


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFamily, ModelSource]:
    folder = save_tiny_pipeline(request.param, tmp_path_factory.mktemp("models") / request.param)
    return family_named(request.param), ModelSource(str(folder))


def vectors(family: ModelFamily, source: ModelSource, num: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    encoders = family.load(source).text_encoders
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in encoders]
    return [torch.randn(num, width, generator=generator) * 0.1 for width in widths]


@pytest.mark.parametrize("layout", ["<ink>.safetensors", "<ink>"])
def test_both_layouts_give_the_trained_tokens_embeddings(
    layout: str, known: tuple[ModelFamily, ModelSource], tmp_path: Path
) -> None:
    family, source = known
    parts = {"<ink>": vectors(family, source)}
    save_tokens(family, parts, {"<ink>": {"token.name": "<ink>"}}, tmp_path)
    components = family.load(source)
    path = tmp_path / layout.replace("<ink>", "ink")
    assert load_tokens(family, components, [path]) == {str(path): "<ink>"}
    found, expected = (
        encoded(family, components, "<ink>"),
        encoded(family, with_vectors(family, source, parts), "<ink>"),
    )
    other = encoded(family, family.load(source), "<ink>")
    assert torch.equal(found.embeddings, expected.embeddings)
    assert found.embeddings.shape != other.embeddings.shape or not torch.equal(found.embeddings, other.embeddings)


def test_files_of_other_programs_have_their_names_word(known: tuple[ModelFamily, ModelSource], tmp_path: Path) -> None:
    family, source = known
    tensors = dict(zip(family.token_keys, vectors(family, source, num=1), strict=True))
    safetensors.torch.save_file(tensors, tmp_path / "qqink.safetensors")
    path = tmp_path / "qqink.safetensors"
    assert load_tokens(family, family.load(source), [path]) == {str(path): "qqink"}


def test_wrong_files_are_named(tmp_path: Path, tiny_model: Path) -> None:
    family, source = family_named("sd"), ModelSource(str(tiny_model))
    safetensors.torch.save_file({"emb_params": torch.zeros(1, 7)}, tmp_path / "ink.safetensors")
    safetensors.torch.save_file({"red</w>": torch.zeros(1, 32)}, tmp_path / "taken.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    words = {"ink.safetensors": r"widths \[7\], expected \[32\]", "taken.safetensors": "is a token already"}
    words |= {"torn.safetensors": "not a readable safetensors file", "empty": "has no learned_embeds"}
    for name, word in words.items():
        with pytest.raises(ValueError, match=f"embedding: .*{word}"):
            load_tokens(family, family.load(source), [tmp_path / name])
    with pytest.raises(ValueError, match="takes no new tokens"):
        load_tokens(family_named("flux"), family.load(source), [tmp_path / "ink.safetensors"])
