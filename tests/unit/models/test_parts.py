from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.batches.store import fingerprint
from finetune.export.verify import base_model, prediction
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.models.parts import PARTS, Part, drop_weights, is_dropped, load_sequentially

FAMILY = StableDiffusion()


def test_each_part_is_seen_alone_and_then_dropped(tiny_model: Path) -> None:
    seen: dict[Part, Sequence[Any]] = {}

    def look(part: Part, modules: Sequence[Any]) -> None:
        assert all(is_dropped(module) for others in seen.values() for module in others)
        assert not any(is_dropped(module) for module in modules)
        seen[part] = modules

    parts = load_sequentially(FAMILY, ModelSource(str(tiny_model)), look)
    assert tuple(seen) == PARTS
    assert all(is_dropped(module) for part in PARTS for module in parts.modules(part))


@pytest.mark.parametrize("part", PARTS)
def test_weights_come_back_into_the_same_module_bit_for_bit(part: Part, tiny_model: Path) -> None:
    source = ModelSource(str(tiny_model))
    whole = FAMILY.load(source)
    parts = load_sequentially(FAMILY, source)
    (module,) = parts.modules(part)
    (expected,) = {"denoiser": (whole.denoiser,), "vae": (whole.vae,), "text_encoders": whole.text_encoders}[part]
    with parts.lent(part):
        assert fingerprint(module) == fingerprint(expected)
        buffers = dict(module.named_buffers())
        assert all(torch.equal(value, buffers[name]) for name, value in expected.named_buffers())
        assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert is_dropped(module)
    parts.load(part)
    with parts.lent(part):
        pass
    assert not is_dropped(module)  # what was there stays


def test_computing_with_a_dropped_part_fails(tiny_model: Path) -> None:
    vae = FAMILY.vae(ModelSource(str(tiny_model)))
    drop_weights(vae)
    with pytest.raises((NotImplementedError, RuntimeError)):
        vae.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mean.tolist()


def test_the_prediction_of_an_export_needs_the_denoiser_alone(tiny_model: Path) -> None:
    source = ModelSource(str(tiny_model))
    components, prompts = base_model(FAMILY, source, text_encoders=False)
    assert all(is_dropped(module) for module in (components.vae, *components.text_encoders))
    usual, none = base_model(FAMILY, source, text_encoders=True)
    assert none is None
    assert torch.equal(prediction(FAMILY, components, prompts), prediction(FAMILY, usual))
