import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel

from finetune.batches.preview_prompts import kept_prompts
from finetune.config.dreambooth import PriorConfig
from finetune.config.outputs import PreviewConfig
from finetune.models.family import ModelFamily, ModelSource
from finetune.models.parts import PARTS, is_dropped, load_sequentially
from finetune.models.samplers import with_sampler
from finetune.run.class_images import make_class_images
from finetune.run.preview import make_previews, planned_previews
from tests.contract.conftest import PROMPT

SIZE = 32


@contextmanager
def bytes_of_text_encoders(kind: type) -> Iterator[list[int]]:
    """Record the bytes of called text encoders at each denoiser call."""
    weights: list[weakref.ref[Tensor]] = []
    held: list[int] = []

    def note(module: nn.Module, arguments: Any) -> None:
        if isinstance(module, PreTrainedModel):
            weights.extend(weakref.ref(parameter) for parameter in module.parameters())
        elif isinstance(module, kind):
            alive = [value for weight in weights if (value := weight()) is not None and not value.is_meta]
            held.append(sum(value.numel() * value.element_size() for value in alive))

    handle = register_module_forward_pre_hook(note)
    try:
        yield held
    finally:
        handle.remove()
    assert weights and held


@pytest.mark.parametrize("rounded", [False, True])
@torch.no_grad()
def test_previews_hold_no_text_encoder_and_are_what_the_whole_model_draws(
    family: ModelFamily, source: ModelSource, tmp_path: Path, rounded: bool
) -> None:
    """`rounded` is a bf16 run, whose Accelerator's contexts are entered by hand."""
    negative = "blurry" if family.knows_negative_prompts else ""
    own = f"{PROMPT} --w 48 --d 5 --s 1 --l 2 --ss Euler" + (" --n dull" if negative else "")
    lines = (PROMPT, "one, " * 100, own)
    config = PreviewConfig(lines, negative, num_seeds=2, num_inference_steps=2, guidance_scale=4.0)
    planned, accelerator = planned_previews(tmp_path, config, 0), Accelerator(cpu=True)
    parts = load_sequentially(family, source)
    components = parts.components
    parts.load(*PARTS)
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        plain, expected = family.pipeline(components), []
        euler = family.pipeline(replace(components, scheduler=with_sampler(family, components.scheduler, "Euler")))
        for preview in planned:
            is_own = preview.prompt == own
            text, avoided = (PROMPT, "dull" if negative else "") if is_own else (preview.prompt, negative)
            given = family.pipeline_prompts(components, text, avoided)
            settings: dict[str, Any] = {"guidance_scale": 4.0, "num_inference_steps": 2, "width": SIZE, "height": SIZE}
            settings |= {"guidance_scale": 2.0, "num_inference_steps": 1, "width": 48} if is_own else {}
            generator = torch.Generator().manual_seed(preview.seed)
            expected.append((euler if is_own else plain)(**given, generator=generator, **settings).images[0])
        with bytes_of_text_encoders(type(components.denoiser)) as held:
            kept = kept_prompts(family, components, config, accelerator, text_encoder_is_trained=False)
            parts.drop("text_encoders")
            make_previews(family, components, planned, kept, config, accelerator, size=SIZE, stop=lambda: False)
    assert all(map(is_dropped, components.text_encoders)) and set(held) == {0}
    assert [preview.seed for preview in planned] == [0, 1, 0, 1, 5, 6]
    for preview, image in zip(planned, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(preview.path)), np.asarray(image))


def test_class_images_hold_no_text_encoder(family: ModelFamily, source: ModelSource, tmp_path: Path) -> None:
    config = PriorConfig(prompt=PROMPT, num_pictures=1, num_inference_steps=1, batch_size=1)
    with bytes_of_text_encoders(type(family.denoiser(source))) as held:
        folder = make_class_images(family, source, config, tmp_path, SIZE, Accelerator(cpu=True))
    assert set(held) == {0} and len(list(folder.glob("*.png"))) == 1
