import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, CLIPModel

from datasets_prep.duplicates.embeddings import cached_embeddings
from tests.tiny import vision as tiny_vision

PICTURES = tiny_vision.pictures()
KEYS = [hashlib.sha256(image.tobytes()).digest() for image in PICTURES]


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.save_dinov2(tmp_path_factory.mktemp("dinov2"))


def embedded(model: Path, folder: Path, count: int = 5, opened: list[int] | None = None) -> np.ndarray:
    def load(index: int) -> Image.Image:
        if opened is not None:
            opened.append(index)
        return PICTURES[index]

    return cached_embeddings(str(model), KEYS[:count], list(range(count)), load, folder, lambda *_: None)


@pytest.mark.parametrize(
    "save", [tiny_vision.save_dinov2, tiny_vision.save_convnext, tiny_vision.save_clip, tiny_vision.save_siglip]
)
def test_vectors_have_length_one_and_differ(save: Callable[[Path], Path], tmp_path: Path) -> None:
    vectors = embedded(save(tmp_path / "model"), tmp_path)
    assert vectors.shape[0] == 5 and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert (vectors @ vectors.T)[0, 1:].max() < 0.99999


def pixels_for(model: Path) -> torch.Tensor:
    return AutoImageProcessor.from_pretrained(model)(PICTURES, return_tensors="pt")["pixel_values"]


@torch.no_grad()
def test_the_vector_of_dinov2_is_its_normalised_class_token(dinov2: Path, tmp_path: Path) -> None:
    token = AutoModel.from_pretrained(dinov2).eval()(pixels_for(dinov2)).last_hidden_state[:, 0]
    np.testing.assert_allclose(embedded(dinov2, tmp_path), torch.nn.functional.normalize(token).numpy(), atol=1e-5)


@torch.no_grad()
def test_the_vector_of_clip_is_what_it_compares_with_texts(tmp_path: Path) -> None:
    model = tiny_vision.save_clip(tmp_path / "model")
    clip = CLIPModel.from_pretrained(model).eval()
    output = clip(input_ids=torch.tensor([[3, 1]]), pixel_values=pixels_for(model))
    np.testing.assert_allclose(embedded(model, tmp_path), output.image_embeds.numpy(), atol=1e-5)


@torch.no_grad()
def test_a_pooler_that_was_never_trained_is_not_used(tmp_path: Path) -> None:
    model = tiny_vision.save_classifier(tmp_path / "model", ["cat", "dog"])
    first, second = (embedded(model, tmp_path / name) for name in ("first", "second"))
    np.testing.assert_array_equal(first, second)
    mean = AutoModel.from_pretrained(model).eval()(pixels_for(model)).last_hidden_state.mean(1)
    np.testing.assert_allclose(first, torch.nn.functional.normalize(mean).numpy(), atol=1e-5)


def test_only_new_images_are_looked_at(dinov2: Path, tmp_path: Path) -> None:
    three = embedded(dinov2, tmp_path, 3)
    opened: list[int] = []
    five = embedded(dinov2, tmp_path, 5, opened)
    np.testing.assert_array_equal(five[:3], three)
    np.testing.assert_array_equal(embedded(dinov2, tmp_path, 5, opened), five)
    assert opened == [3, 4]


def test_a_killed_run_loses_only_the_vector_that_it_was_writing(dinov2: Path, tmp_path: Path) -> None:
    before = embedded(dinov2, tmp_path)
    (kept,) = tmp_path.glob("embeddings-*.bin")
    kept.write_bytes(kept.read_bytes()[:-7])
    opened: list[int] = []
    np.testing.assert_array_equal(embedded(dinov2, tmp_path, 5, opened), before)
    assert opened == [4]


def test_vectors_of_another_model_are_not_taken(dinov2: Path, tmp_path: Path) -> None:
    embedded(dinov2, tmp_path)
    opened: list[int] = []
    assert embedded(tiny_vision.save_clip(tmp_path / "two"), tmp_path, 5, opened).shape == (5, 8)
    assert opened == list(range(5))


def test_no_images_give_no_vectors(dinov2: Path, tmp_path: Path) -> None:
    assert len(embedded(dinov2, tmp_path, 0)) == 0
