from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.evaluate.features.base import Feature
from finetune.evaluate.features.model import DenoiserContent, DenoiserStyle, FrozenModel, Latents, blocks_of
from finetune.evaluate.features.pixels import PixelStatistics, cosine_patterns
from finetune.evaluate.grid import Grid, GridPrompt
from finetune.evaluate.measure import as_levels, as_tensor, joined_fit
from finetune.evaluate.prompt_fit import DenoisingLoss, fits_of_prompt
from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.objectives.diffusion import denoising_loss
from finetune.randomness import noise_at
from tests.support.families import TINY_FAMILIES, save_tiny_pipeline

CPU = torch.device("cpu")


def drawings(num: int, side: int = 32) -> Tensor:
    """Coloured squares on paper, each at another place."""
    dice = torch.Generator().manual_seed(0)
    found = torch.full((num, 3, side, side), 0.9)
    for image in found:
        x, y = torch.randint(0, side // 2, (2,), generator=dice).tolist()
        image[:, y : y + side // 2, x : x + side // 2] = torch.rand(3, 1, 1, generator=dice)
    return found


@pytest.fixture(scope="module", params=list(TINY_FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FrozenModel:
    """The tiny model of every family."""
    folder = save_tiny_pipeline(request.param, tmp_path_factory.mktemp("models") / "tiny")
    family = family_named(request.param)
    return FrozenModel(family, family.load(ModelSource(str(folder))), CPU)


def test_features_of_every_family_are_of_length_one_and_depend_on_the_image_alone(model: FrozenModel) -> None:
    images = drawings(3)
    made: tuple[Callable[[FrozenModel], Feature], ...] = (Latents, DenoiserStyle, DenoiserContent)
    for make in made:
        feature = make(model)
        found = feature.encode(images)
        assert found.dtype == torch.float32 and found.shape[0] == 3 and found.shape[1] > 8, feature.name
        assert torch.allclose(found.norm(dim=1), torch.ones(3)) and bool(found.isfinite().all())
        assert torch.equal(found, feature.encode(images)), "two calls have the same bits"
        assert torch.allclose(feature.encode(images[1:2])[0], found[1], atol=1e-5)
        assert not torch.allclose(found[0], found[1], atol=1e-4), feature.name


def test_no_hook_stays_on_the_denoiser(model: FrozenModel) -> None:
    DenoiserStyle(model).encode(drawings(1))
    assert all(not block._forward_hooks for block in blocks_of(model.network.denoiser))


def test_the_fit_is_the_loss_of_each_text_by_itself(model: FrozenModel) -> None:
    """Compute the losses of one text at a time."""
    image, texts = drawings(1)[0], ("a red square", "a cat")
    found = DenoisingLoss(model).fits(image, texts)
    clean = model.latents(image[None])
    for text, fit in zip(texts, found, strict=True):
        losses = []
        for number, u in enumerate((0.25, 0.5, 0.75)):
            t, noise = model.timestep(u, clean), noise_at(0, [number], clean.shape[1:], "prompt fit")
            prompts = model.condition([text], clean)
            with torch.no_grad():
                loss = denoising_loss(model.objective, lambda x, t, p=prompts: model.network(x, t, p), clean, noise, t)
            losses.append(loss.item())
        assert fit == pytest.approx(-np.mean(losses), rel=1e-3)


def test_captions_that_a_prompt_asks_for_are_not_counted_as_leaks(model: FrozenModel) -> None:
    prompts = tuple(GridPrompt(text, text, "user") for text in ("a red square", "a cat", "a boat"))
    grid = Grid(prompts, (0, 1), False, ("red squares", "a house"))
    measure, images = DenoisingLoss(model), drawings(6).unflatten(0, (3, 2))
    described = [fits_of_prompt(measure, of_prompt, grid, number) for number, of_prompt in enumerate(images)]
    fit = joined_fit(described, measure.name, judges_style=True)
    assert fit.own.shape == (3, 2) and fit.others.shape == (3, 2, 2) and fit.captions.shape == (3, 2, 2)
    assert np.isnan(fit.captions).sum(axis=(1, 2)).tolist() == [2, 0, 0]


def test_an_image_through_the_autoencoder_is_that_of_the_model_itself(model: FrozenModel) -> None:
    images = drawings(2)
    found = model.through_autoencoder(images)
    vae = model.components.vae
    with torch.no_grad():
        direct = vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample / 2 + 0.5
    assert torch.allclose(found, direct.clamp(0, 1), atol=1e-5)


def test_pixel_statistics_do_not_depend_on_the_place() -> None:
    """A moved drawing is near, another colour or blur is not."""
    square = torch.full((3, 64, 64), 1.0)
    square[:, 16:40, 16:40] = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    moved = square.roll((8, 8), (1, 2))
    blue = square[[2, 1, 0]]
    blurred = F.avg_pool2d(F.pad(square[None], (2, 2, 2, 2), mode="replicate"), 5, 1)[0]
    found = PixelStatistics().encode(torch.stack([square, moved, blue, blurred]))
    near, colour, edges = (found[0] @ found[1:].T).tolist()
    assert near > 0.999 and colour < 0.98 and edges < 0.995


def test_cosine_patterns_are_orthonormal() -> None:
    flat = cosine_patterns(4).flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(15), atol=1e-5) and torch.allclose(
        flat.sum(1), torch.zeros(15), atol=1e-5
    )


def test_levels_become_tensors_and_return() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), dtype=np.uint8)
    assert np.array_equal(as_levels(as_tensor(levels)), levels) and as_tensor(levels).shape == (2, 3, 8, 6)
