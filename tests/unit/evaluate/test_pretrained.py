"""Tiny models of real classes, in folders as on the Hub."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from finetune.evaluate.features.pretrained import (
    AnswerFit,
    CosineFit,
    VisionFeature,
    as_images,
    model_files,
    prompt_measure,
)
from tests.tiny.captioners import save_llava
from tests.tiny.vision import save_clip, save_dinov2, save_siglip

CPU = torch.device("cpu")
IMAGES = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))
SAVES: tuple[Callable[[Path], Path], ...] = (save_dinov2, save_clip, save_siglip)


@pytest.mark.parametrize("save", SAVES)
def test_vision_models_describe_images(save: Callable[[Path], Path], tmp_path: Path) -> None:
    files = model_files("features.content", str(save(tmp_path / "eye")))
    feature = VisionFeature.loaded(files, CPU)
    found = feature.encode(IMAGES)
    assert found.shape[0] == 3 and torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(feature.encode(IMAGES[1:2])[0], found[1], atol=1e-5)
    assert feature.name.startswith("eye@") and not torch.allclose(found[0], found[1], atol=1e-4)


def test_dinov2_is_its_pooled_output(tmp_path: Path) -> None:
    feature = VisionFeature.loaded(model_files("features.content", str(save_dinov2(tmp_path))), CPU)
    with torch.no_grad():
        pixels = feature.processor(images=as_images(IMAGES[:1]), return_tensors="pt").pixel_values
        direct = AutoModel.from_pretrained(tmp_path).eval()(pixels).last_hidden_state[:, 0]
    assert torch.allclose(feature.encode(IMAGES[:1]), direct / direct.norm(), atol=1e-4)


@pytest.mark.parametrize("save", [save_clip, save_siglip])
def test_the_cosine_is_that_of_the_model_itself(save: Callable[[Path], Path], tmp_path: Path) -> None:
    measure = prompt_measure(model_files("features.adherence", str(save(tmp_path))), CPU)
    texts = ["a red square", "a green circle"]
    found = measure.fits(IMAGES[0], texts)
    assert isinstance(measure, CosineFit) and found.shape == (2,)
    model, tokenizer = AutoModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer(texts, padding="max_length", max_length=12, return_tensors="pt")
    if save is save_siglip:
        tokens.pop("attention_mask")
    with torch.no_grad():
        pixels = measure.images.processor(images=as_images(IMAGES[:1]), return_tensors="pt")
        output = model(**pixels, **{name: value for name, value in tokens.items() if name != "token_type_ids"})
    direct = (output.image_embeds @ output.text_embeds.T)[0]
    assert found == pytest.approx(direct.numpy(), abs=1e-4)


def test_vqascore_is_the_probability_of_yes(tmp_path: Path) -> None:
    measure = prompt_measure(model_files("features.adherence", str(save_llava(tmp_path))), CPU)
    assert isinstance(measure, AnswerFit)
    found = measure.fits(IMAGES[0], ["a red square", "a green circle"])
    assert found.shape == (2,) and bool(np.all(found < 0)) and found[0] != found[1]
    text = measure.prompt('Does this figure show "a red square"? Please answer yes or no.')
    inputs = measure.processor(images=as_images(IMAGES[:1]), text=[text], return_tensors="pt")
    with torch.no_grad():
        chances: Tensor = measure.model(**inputs).logits[0, -1].softmax(0)
    assert np.exp(found[0]) == pytest.approx(chances[measure.yes].item(), rel=1e-4)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    weights = safetensors.torch.load_file(save_dinov2(tmp_path) / "model.safetensors")
    weights.pop("layernorm.weight")
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"features.style: .* lacks 1 weight .* layernorm.weight"):
        VisionFeature.loaded(model_files("features.style", str(tmp_path)), CPU)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    weights = safetensors.torch.load_file(save_dinov2(tmp_path) / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"features.style: .* cannot be loaded"):
        VisionFeature.loaded(model_files("features.style", str(tmp_path)), CPU)


@pytest.mark.parametrize("model", ["nothing", "./nothing", "owner/not-in-the-cache"])
def test_models_that_are_not_there_are_named(model: str) -> None:
    with pytest.raises(ValueError, match=r"features.style: .*(expected embedded|not to be had from the Hub)"):
        model_files("features.style", model)


def test_other_weights_have_another_name(tmp_path: Path) -> None:
    before = model_files("features.style", str(save_dinov2(tmp_path))).name
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    assert model_files("features.style", str(tmp_path)).name != before
