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


class Opened:
    """A loader that records which images it opens."""

    def __init__(self) -> None:
        self.indices: list[int] = []

    def __call__(self, index: int) -> Image.Image:
        self.indices.append(index)
        return PICTURES[index]


def embedded(model: Path, folder: Path, count: int = 5, opened: Opened | None = None) -> np.ndarray:
    indices = list(range(count))
    return cached_embeddings(str(model), KEYS[:count], indices, opened or Opened(), folder, lambda *_: None)


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
def test_the_vector_of_dinov2_is_its_normalised_class_token(tmp_path: Path) -> None:
    model = tiny_vision.save_dinov2(tmp_path / "model")
    token = AutoModel.from_pretrained(model).eval()(pixels_for(model)).last_hidden_state[:, 0]
    expected = torch.nn.functional.normalize(token).numpy()
    np.testing.assert_allclose(embedded(model, tmp_path), expected, atol=1e-5)


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


def test_only_new_images_are_looked_at(tmp_path: Path) -> None:
    model = tiny_vision.save_dinov2(tmp_path / "model")
    three = embedded(model, tmp_path, 3)
    opened = Opened()
    five = embedded(model, tmp_path, 5, opened)
    assert opened.indices == [3, 4]
    np.testing.assert_array_equal(five[:3], three)
    again = Opened()
    np.testing.assert_array_equal(embedded(model, tmp_path, 5, again), five)
    assert not again.indices


def test_a_killed_run_loses_only_the_vector_that_it_was_writing(tmp_path: Path) -> None:
    model = tiny_vision.save_dinov2(tmp_path / "model")
    before = embedded(model, tmp_path)
    (kept,) = tmp_path.glob("embeddings-*.bin")
    kept.write_bytes(kept.read_bytes()[:-7])
    opened = Opened()
    np.testing.assert_array_equal(embedded(model, tmp_path, 5, opened), before)
    assert opened.indices == [4]


def test_vectors_of_another_model_are_not_taken(tmp_path: Path) -> None:
    embedded(tiny_vision.save_dinov2(tmp_path / "one"), tmp_path)
    opened = Opened()
    assert embedded(tiny_vision.save_clip(tmp_path / "two"), tmp_path, 5, opened).shape == (5, 8)
    assert opened.indices == list(range(5))


def test_no_images_give_no_vectors(tmp_path: Path) -> None:
    assert len(embedded(tiny_vision.save_dinov2(tmp_path / "model"), tmp_path, 0)) == 0
