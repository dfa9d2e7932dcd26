from functools import cache

import bitsandbytes
import pytest
import torch
from bitsandbytes import functional
from torch import nn

from finetune.config.lora import LoRAConfig
from finetune.methods.lora.adapters import attach_adapters
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Network
from finetune.models.parts import drop_weights
from finetune.models.prompts import Prompts
from finetune.models.quantized.host_memory import PinnedBlocks
from finetune.models.quantized.number_formats import Kind
from finetune.models.quantized.packed import PackedLinear, num_frozen, pack_layers, packed_layers
from tests.support.runs import differing
from tests.tiny.sd import SIZES, build_unet

CPU = torch.device("cpu")
KINDS: tuple[Kind, ...] = ("int8", "fp8", "nf4")
WEIGHT_ERROR = {"int8": 0.01, "fp8": 0.03, "nf4": 0.11}
"""||W - unpacked|| / ||W|| of normally distributed weights: measured 0.007, 0.026 and 0.092."""


def linear(inputs: int = 96, outputs: int = 160, *, bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(inputs, outputs, bias=bias)
        nn.init.normal_(layer.weight, std=0.02)
    return layer.requires_grad_(False)


def packed(layer: nn.Linear, kind: Kind, *, double: bool = True) -> PackedLinear:
    return PackedLinear(layer, kind, double=double, device=CPU, dtype=torch.float32)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", [96, 128, 100])
def test_the_weight_comes_back_within_its_bound(kind: Kind, inputs: int) -> None:
    layer = linear(inputs)
    assert 0 < relative(packed(layer, kind).weight, layer.weight) < WEIGHT_ERROR[kind]


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("inputs", [128, 320])
def test_nf4_is_that_of_bitsandbytes(double: bool, inputs: int) -> None:
    layer, x = linear(inputs), torch.randn(3, inputs, generator=torch.Generator().manual_seed(1))
    options = {"compute_dtype": torch.float32, "compress_statistics": double, "quant_type": "nf4"}
    theirs = bitsandbytes.nn.Linear4bit(inputs, 160, **options)
    theirs.load_state_dict(layer.state_dict())
    theirs.to(CPU).train()
    assert torch.equal(packed(layer, "nf4", double=double)(x), theirs(x))


def test_int8_is_that_of_llm_int8() -> None:
    layer = linear()
    layer.weight.copy_(layer.weight.half())  # bitsandbytes takes float16 alone
    codes, scales, _ = functional.int8_vectorwise_quant(layer.weight.half())
    theirs = codes.float() * scales[:, None] / 127
    assert relative(packed(layer, "int8").weight, theirs) < 1e-4  # one code in ten thousand rounds the other way


def test_fp8_scales_each_row_to_the_largest_number() -> None:
    layer = linear()
    found = packed(layer, "fp8")
    codes = found.packed["codes"].view(torch.float8_e4m3fn).float()
    assert torch.equal(codes.abs().amax(1), torch.full((160,), 448.0))
    unscaled = relative(layer.weight.to(torch.float8_e4m3fn).float(), layer.weight)
    assert relative(found.weight, layer.weight) < unscaled


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_stays_zero(kind: Kind) -> None:
    layer = linear()
    layer.weight[3] = 0
    assert bool((packed(layer, kind, double=False).weight[3] == 0).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_is_that_of_the_unpacked_weight(kind: Kind, bias: bool) -> None:
    layer = packed(linear(bias=bias), kind)
    x = torch.randn(2, 5, 96, generator=torch.Generator().manual_seed(1), requires_grad=True)
    usual = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), usual)
    (found,) = torch.autograd.grad(layer(x).sin().sum(), x)
    (expected,) = torch.autograd.grad(usual.sin().sum(), x)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert all(parameter.grad is None for parameter in layer.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_computes_in_its_dtype(kind: Kind) -> None:
    layer, x = packed(linear(), kind), torch.randn(2, 96, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_casting_a_module_leaves_packed_weights_alone(kind: Kind) -> None:
    layer = packed(linear(), kind)
    before = layer.weight
    layer.bfloat16()
    assert torch.equal(layer.weight, before)
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@cache
def adapted(kind: Kind | None, *, checkpointing: bool = False, offload: bool = False) -> tuple[Network, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = build_unet(SIZES["small"], sd2=False).requires_grad_(False)
        noisy, prompts = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 64)
        if kind:
            pack_layers(unet, kind, double=True, device=CPU, dtype=torch.float32, offload=offload)
        network = Network(StableDiffusion(), unet)
        attach_adapters(network, LoRAConfig(rank=4), 0)
        for name, parameter in network.named_parameters():
            if ".lora_B." in name:
                nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(len(name)))
        if checkpointing:
            network.train()
            network.checkpoint_gradients()
    loss = (network(noisy, torch.tensor([10, 500]), Prompts(prompts)) - noisy).square().mean()
    loss.backward()
    return network, loss.item()


def gradients(network: Network) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


LOSS_ERROR = {"int8": 1e-3, "fp8": 5e-3, "nf4": 2e-2}
GRADIENT_ERROR = {"int8": 0.02, "fp8": 0.08, "nf4": 0.3}
"""Relative, of the loss and of all LoRA gradients together."""


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_lora_gradients_are_near_those_of_unquantised_weights(kind: Kind) -> None:
    usual, loss = adapted(None)
    network, quantised_loss = adapted(kind)
    ours, theirs = gradients(network), gradients(usual)
    assert ours.keys() == theirs.keys() and all(".lora_" in name for name in ours)
    assert all(bool(gradient.abs().max() > 0) for gradient in ours.values())
    starts = dict(usual.named_parameters())
    assert all(torch.equal(p, starts[name]) for name, p in network.named_parameters() if p.requires_grad)
    error = relative(torch.cat([g.flatten() for g in ours.values()]), torch.cat([g.flatten() for g in theirs.values()]))
    assert 0 < error < GRADIENT_ERROR[kind]
    assert abs(quantised_loss / loss - 1) < LOSS_ERROR[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_activations_give_the_same_gradients(kind: Kind) -> None:
    usual, loss = adapted(kind)
    network, again = adapted(kind, checkpointing=True)
    assert loss == again
    assert differing(gradients(usual), gradients(network)) == []


def test_the_linear_layers_of_blocks_are_packed_and_counted_as_before() -> None:
    unet = build_unet(SIZES["small"], sd2=False).requires_grad_(False)
    total = sum(parameter.numel() for parameter in unet.parameters())
    saving = pack_layers(unet, "nf4", double=True, device=CPU, dtype=torch.bfloat16)
    assert type(unet.time_embedding.linear_1) is nn.Linear
    assert saving.num_layers == len(list(packed_layers(unet))) > 50
    assert 3.7 < saving.bytes_before / saving.bytes_now < 3.9  # 16 / (4 + 8 / 64 + a little)
    assert num_frozen(Network(StableDiffusion(), unet)) == total


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_weights_in_host_memory_give_the_same_loss_and_gradients(kind: Kind | None, checkpointing: bool) -> None:
    usual, loss = adapted(kind, checkpointing=checkpointing)
    network, offloaded_loss = adapted(kind or "none", checkpointing=checkpointing, offload=True)
    assert loss == offloaded_loss
    assert differing(gradients(usual), gradients(network)) == []


@pytest.mark.parametrize("kind", ["none", "int8", "nf4"])
def test_nothing_of_a_network_holds_a_weight_that_waits_in_host_memory(kind: Kind) -> None:
    unet = build_unet(SIZES["small"], sd2=False).requires_grad_(False)
    total = sum(parameter.numel() for parameter in unet.parameters())
    once = ("time_embedding.linear_1", "time_embedding.linear_2")
    blocks = [name for name, layer in unet.named_modules() if type(layer) is nn.Linear and name not in once]
    saving = pack_layers(unet, kind, double=True, device=CPU, dtype=torch.bfloat16, offload=True)
    network = Network(StableDiffusion(), unet)
    assert [name for name, layer in unet.named_modules() if isinstance(layer, PackedLinear)] == blocks
    tensors = {**network.state_dict(), **dict(network.named_parameters()), **dict(network.named_buffers())}
    inside = tuple(f"denoiser.{name}." for name in blocks)
    assert {name.rpartition(".")[2] for name in tensors if name.startswith(inside)} == {"bias"}
    assert num_frozen(network) == total
    sizes = {"none": 16, "int8": 8, "nf4": 4}
    assert saving.bytes_before / saving.bytes_now == pytest.approx(16 / sizes[kind], rel=0.1)
    assert saving.bytes_now == sum(layer.num_bytes() for layer in packed_layers(unet))
    drop_weights(unet)
    assert not sum(layer.num_bytes() for layer in packed_layers(unet))


def test_adapters_are_made_where_weights_are_needed_not_where_they_wait() -> None:
    meta = torch.device("meta")  # stands for a device that is not the host
    layer = PackedLinear(linear(), "none", double=True, device=meta, dtype=torch.bfloat16, keep=torch.Tensor.cpu)
    assert layer.weight.device == meta and layer.weight.dtype == torch.float32
    assert layer.to(meta).waiting["weight"].device == CPU


def test_pinned_blocks_keep_what_they_are_given() -> None:
    blocks = PinnedBlocks(pinned=False, block=1024)
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 100), (7,), (2000,), (5, 100), (1,)]
    values = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for shape in shapes]
    kept = [blocks.keep(value) for value in values]
    assert all(torch.equal(one, other) for one, other in zip(kept, values, strict=True))
    assert len({value.untyped_storage().data_ptr() for value in kept}) == 3
