from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from finetune.batches.preview_prompts import kept_prompts
from finetune.config.outputs import PreviewConfig
from finetune.models.family import Components, ModelFamily
from finetune.run.preview import make_previews, planned_previews

FP16_MAX = 65504


@torch.no_grad()
def enlarge(layer: nn.Module) -> None:
    """Make the layer's outputs overflow fp16; later norms shrink them again."""
    for parameter in layer.parameters():
        parameter.mul_(100 * FP16_MAX)


def preview(family: ModelFamily, components: Components, folder: Path) -> np.ndarray:
    """Draw a preview as a GPU run in fp16 does. Contexts that the CPU's Accelerator refuses are entered by hand."""
    folder.mkdir()
    config = PreviewConfig(prompts=("a red circle",), num_inference_steps=1)
    planned = planned_previews(folder, config, 0)
    accelerator = Accelerator(cpu=True)
    with torch.autocast("cpu", torch.float16):
        prompts = kept_prompts(family, components, config, accelerator, text_encoder_is_trained=False)
        make_previews(family, components, planned, prompts, config, accelerator, size=32, stop=lambda: False)
    return np.asarray(Image.open(planned[0].path)).astype(float)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # what a black image is made of
def test_previews_are_drawn_by_a_vae_that_asks_for_more_than_fp16(
    family: ModelFamily, components: Components, tmp_path: Path
) -> None:
    vae = components.vae
    expected = preview(family, components, tmp_path / "plain")
    enlarge(vae.decoder.conv_in)
    large = preview(family, components, tmp_path / "large")
    assert expected.std() > 1 and large.std() > 1
    vae.register_to_config(force_upcast=False)
    assert preview(family, components, tmp_path / "overflown").max() == 0
    assert "decode" not in vars(vae) and "encode" not in vars(vae)
