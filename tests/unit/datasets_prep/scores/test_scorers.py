from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, SiglipModel, ViTForImageClassification

from datasets_prep.scores.scorers import make_scorer, reading_of, scores_of
from datasets_prep.vision.batches import in_batches
from tests.tiny import vision as tiny_vision

PICTURES = tiny_vision.pictures()
CAPTIONS = {0: "a red square", 1: "a green square", 2: "a blue circle", 3: "grey", 4: "a circle on red"}


def scores(name: str, model: Path, captions: dict[int, str] = CAPTIONS, batch_size: int = 2) -> dict[int, float]:
    return dict(scores_of(make_scorer(name, str(model)), range(5), PICTURES.__getitem__, captions, batch_size))


def pixels_for_vit() -> torch.Tensor:
    """[B 3 32 32] without transformers, scaled to -1 to 1."""
    resized = [np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), np.float32) for image in PICTURES]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 127.5 - 1


def logits(folder: Path) -> torch.Tensor:
    model = ViTForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(pixel_values=pixels_for_vit()).logits


@pytest.mark.parametrize(
    ("name", "labels", "kind", "meant"),
    [
        ("nsfw", ["normal", "nsfw"], None, lambda out: out.softmax(1)[:, 1]),
        ("nsfw", ["safe", "nudity", "gore"], "multi_label_classification", lambda out: out.sigmoid()[:, 1:].amax(1)),
        ("aesthetic", ["1", "2", "5"], None, lambda out: out.softmax(1) @ torch.tensor([1.0, 2.0, 5.0])),
        ("aesthetic", ["LABEL_0"], "regression", lambda out: out[:, 0]),
    ],
)
def test_the_score_is_a_probability_the_likeliest_an_expected_grade_or_the_output_itself(
    tmp_path: Path, name: str, labels: list[str], kind: str | None, meant: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    folder = tiny_vision.save_classifier(tmp_path, labels, kind)
    expected = meant(logits(folder))
    assert list(scores(name, folder).values()) == pytest.approx(expected.tolist(), rel=1e-3)
    assert expected.std() > 0.001


@pytest.mark.parametrize(
    ("name", "labels", "meant"),
    [
        ("nsfw", ["drawings", "hentai", "neutral", "porn", "sexy"], [1, 3, 4]),
        ("nsfw", ["SFW", "NSFW"], [1]),
        ("nsfw", ["safe_normal", "not_safe", "nudity_pornography"], [1, 2]),
        ("watermark", ["No Watermark", "Watermark"], [1]),
        ("watermark", ["watermarked", "clean"], [0]),
        ("watermark", ["NonWatermark", "HasWatermark"], [1]),
        ("aesthetic", ["not_aesthetic", "aesthetic"], [1]),
        ("aesthetic", ["lq", "hq"], [1]),
    ],
)
def test_labels_are_recognised_by_their_words(name: str, labels: Sequence[str], meant: list[int]) -> None:
    assert [number for number, weight in enumerate(reading_of(name, labels).weights) if weight] == meant


@pytest.mark.parametrize("name", ["nsfw", "watermark", "aesthetic"])
def test_a_model_without_the_label_is_refused_before_its_weights_are_read(name: str, tmp_path: Path) -> None:
    folder = tiny_vision.save_classifier(tmp_path, ["cat", "dog"])
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=f"scores.{name}_model: .*cat, dog"):
        make_scorer(name, str(folder))


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_agreement_is_the_cosine_of_image_and_caption(family: str, tmp_path: Path) -> None:
    is_clip = family == "clip"
    folder = tiny_vision.save_clip(tmp_path) if is_clip else tiny_vision.save_siglip(tmp_path)
    model = (CLIPModel if is_clip else SiglipModel).from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(list(CAPTIONS.values()), padding="max_length", max_length=12)
    processor = AutoImageProcessor.from_pretrained(folder)
    found = list(scores("clip", folder).values())
    with torch.no_grad():
        pixels = torch.cat([processor([image], return_tensors="pt")["pixel_values"] for image in PICTURES])
        output = model(pixel_values=pixels, input_ids=torch.tensor(ids["input_ids"]))
    expected = (output.image_embeds * output.text_embeds).sum(1)  # of length 1 in both families
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    assert np.std(found) > 0.001


def test_an_image_without_caption_has_no_agreement(tmp_path: Path) -> None:
    assert list(scores("clip", tiny_vision.save_clip(tmp_path), {0: "a red square", 1: "  ", 3: "grey"})) == [0, 3]


def test_a_caption_that_is_too_long_is_cut(tmp_path: Path) -> None:
    assert np.isfinite(scores("clip", tiny_vision.save_clip(tmp_path), {0: "a red square on grey " * 20})[0])


def test_a_classifier_is_not_a_model_of_images_and_texts(tmp_path: Path) -> None:
    folder = tiny_vision.save_classifier(tmp_path, ["a", "b"])
    with pytest.raises(ValueError, match=r"of type vit, expected one of .*siglip"):
        make_scorer("clip", str(folder))


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    folder = tiny_vision.save_dinov2(tmp_path)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("{", '{"id2label": {"0": "sfw", "1": "nsfw"},', 1))
    with pytest.raises(ValueError, match="lacks 2 weights"):
        scores("nsfw", folder)


def test_what_needs_torchvision_says_so(tmp_path: Path) -> None:
    folder = tiny_vision.save_classifier(tmp_path, ["sfw", "nsfw"])
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "DINOv3ViTImageProcessor"}')
    with pytest.raises(ValueError, match=r"scores.nsfw_model: .*needs torchvision.*pip install"):
        make_scorer("nsfw", str(folder))


def test_scores_do_not_depend_on_what_else_is_in_the_batch(tmp_path: Path) -> None:
    scorer = make_scorer("nsfw", str(tiny_vision.save_classifier(tmp_path, ["sfw", "nsfw"])))
    whole = dict(scores_of(scorer, range(5), PICTURES.__getitem__, {}, 4))
    assert dict(scores_of(scorer, [3], PICTURES.__getitem__, {}, 4))[3] == whole[3]


def test_the_identity_tells_models_apart_and_survives_a_copy(tmp_path: Path) -> None:
    first = tiny_vision.save_classifier(tmp_path / "a", ["sfw", "nsfw"])
    same = tiny_vision.save_classifier(tmp_path / "b", ["sfw", "nsfw"])
    other = tiny_vision.save_classifier(tmp_path / "c", ["sfw", "nsfw", "normal"])
    ids = [make_scorer("nsfw", str(folder)).identity() for folder in (first, same, other)]
    assert ids[0] == ids[1] != ids[2]


def test_batches_are_halved_until_they_fit() -> None:
    seen = []

    def compute(items: Sequence[int]) -> list[int]:
        seen.append(len(items))
        if len(items) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [10 * item for item in items]

    results = list(in_batches(lambda index: index + 1, compute, range(5), 8, "scores.nsfw_model"))
    assert results == [(index, 10 * (index + 1)) for index in range(5)]
    assert seen == [8, 4, 2, 2, 2]


def test_an_image_that_does_not_fit_alone_ends_the_run_with_a_sentence() -> None:
    def compute(items: Sequence[int]) -> list[int]:
        raise MemoryError

    with pytest.raises(ValueError, match=r"scores.nsfw_model: the memory does not suffice"):
        list(in_batches(lambda index: index, compute, range(3), 4, "scores.nsfw_model"))


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    def compute(items: Sequence[int]) -> list[int]:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        list(in_batches(lambda index: index, compute, range(3), 4, "scores.nsfw_model"))
