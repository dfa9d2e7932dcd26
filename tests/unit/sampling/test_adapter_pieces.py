from pathlib import Path

import pytest
import torch

from finetune.sampling.adapter_pieces import note_name, refuse_malformed

FILE = Path("ink.safetensors")
PLAIN = {"a.lora_down.weight": torch.ones(4, 8), "a.lora_up.weight": torch.ones(6, 4), "a.alpha": torch.tensor(4)}


@pytest.mark.parametrize("alpha", [torch.tensor(2.0), torch.ones(1), torch.ones(1, 1), torch.tensor(4)])
def test_an_alpha_is_one_number_of_any_shape(alpha: torch.Tensor) -> None:
    refuse_malformed(FILE, {**PLAIN, "a.alpha": alpha, "unheard.of": torch.ones(0)})


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a.alpha": torch.ones(2)}, r"ink\.safetensors: a\.alpha has the shape \(2,\), expected one number\. Save"),
        ({"a.alpha": torch.ones(0)}, r"a\.alpha has the shape \(0,\), expected one number"),
        ({"a.scalar": torch.ones(3)}, r"a\.scalar has the shape \(3,\), expected one number"),
        ({"a.lora_down.weight": torch.ones(0, 8)}, r"a\.lora_down\.weight has the shape \(0, 8\), a rank of 0"),
        ({"a.hada_w1_a": torch.ones(8, 0)}, r"a\.hada_w1_a has the shape \(8, 0\), a rank of 0"),
        ({"a.lora_up.weight": torch.ones(6, 4, dtype=torch.int8)}, r"1 tensor of int8 \(a\.lora_up\.weight\), whose"),
        ({"a.lora_up.weight": torch.ones(6, 4, dtype=torch.bool)}, r"1 tensor of bool .* Use the file from before"),
        ({"a.lora_A.weight": torch.ones(4, 8)}, r"a\.lora_down\.weight and a\.lora_A\.weight are both the same matrix"),
        ({"a.lora_A.default.weight": torch.ones(4, 8)}, r"both the same matrix of a, and one of them would be lost"),
        ({"a.lora.up.weight": torch.ones(6, 4)}, r"a\.lora_up\.weight and a\.lora\.up\.weight are both"),
    ],
)
def test_what_readers_would_misunderstand_is_named(tensors: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        refuse_malformed(FILE, PLAIN | tensors)


def test_one_layer_of_the_model_has_one_name_in_a_file() -> None:
    names: dict[str, str] = {}
    note_name(FILE, names, "denoiser.conv_in", "lora_unet_conv_in")
    note_name(FILE, names, "denoiser.conv_in", "lora_unet_conv_in")
    with pytest.raises(
        ValueError, match=r"lora_unet_conv_in and unet\.conv_in are both the layer denoiser\.conv_in of"
    ):
        note_name(FILE, names, "denoiser.conv_in", "unet.conv_in")
