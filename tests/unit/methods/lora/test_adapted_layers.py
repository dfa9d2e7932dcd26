import pytest
from torch import nn

from finetune.methods.lora.adapters import adapted_layers


def test_targets_without_a_match_are_told_the_names_of_linear_layers() -> None:
    attention = nn.ModuleDict({"to_q": nn.Linear(2, 2), "to_out": nn.ModuleList([nn.Linear(2, 2)])})
    network = nn.ModuleDict({"attn1": attention})
    with pytest.raises(ValueError, match=r"ends with one of attn\. Use ends of names of its linear layers: to_q;"):
        adapted_layers(network, "denoiser", ["attn"])
    assert adapted_layers(network, "denoiser", ["to_q"]) == ["attn1.to_q"]
