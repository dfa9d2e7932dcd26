"""Tiny pipelines in the single-file layout of Stable Diffusion.

Names are those of CompVis' latent diffusion, of transformers' CLIP (1.x and XL's first text encoder) and of open_clip
(2.x and XL's second).
"""

import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

UNET = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
UNET |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
UNET |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
RESNET |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
OPEN_CLIP |= {"self_attn.out_proj": "attn.out_proj"}


def save_single_file(pipeline: Any, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write all weights of a pipeline to one file and return it."""
    weights = {f"model.diffusion_model.{unet_name(k, pipeline.unet)}": v for k, v in pipeline.unet.state_dict().items()}
    weights |= {f"first_stage_model.{k}": v for k, v in vae_weights(pipeline.vae).items()}
    weights |= text_weights(pipeline)
    weights = {k: (v.to(dtype) if v.is_floating_point() else v).contiguous().clone() for k, v in weights.items()}
    safetensors.torch.save_file(weights, path)
    return path


def unet_name(name: str, unet: Any) -> str:
    per_block = unet.config.layers_per_block + 1
    layer, _, kind = name.rpartition(".")
    if layer in UNET:
        return f"{UNET[layer]}.{kind}"
    side, rest = name.split(".", 1)
    if side == "mid_block":
        part, number, inner = rest.split(".", 2)
        return f"middle_block.{1 if part == 'attentions' else 2 * int(number)}.{resnet_name(part, inner)}"
    block, part, number, inner = rest.split(".", 3)
    place = int(block) * per_block + int(number)
    if part == "downsamplers":
        return f"input_blocks.{(int(block) + 1) * per_block}.0.{inner.replace('conv', 'op')}"
    if part == "upsamplers":
        attends = "CrossAttn" in unet.config.up_block_types[int(block)]
        return f"output_blocks.{(int(block) + 1) * per_block - 1}.{2 if attends else 1}.{inner}"
    start = f"input_blocks.{place + 1}" if side == "down_blocks" else f"output_blocks.{place}"
    return f"{start}.{int(part == 'attentions')}.{resnet_name(part, inner)}"


def resnet_name(part: str, inner: str) -> str:
    layer, _, kind = inner.rpartition(".")
    return f"{RESNET[layer]}.{kind}" if part == "resnets" else inner


def vae_weights(vae: Any) -> dict[str, Tensor]:
    """Return the autoencoder's weights under their published names. Attention consists of 1x1 convolutions there."""
    found, last = {}, len(vae.config.up_block_types) - 1
    for old, weight in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", old)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0." in name:
            start, inner = name.split("mid_block.attentions.0.")
            layer, kind = inner.rsplit(".", 1)
            name = f"{start}mid.attn_1.{VAE_ATTENTION[layer]}.{kind}"
            weight = weight[..., None, None] if weight.ndim == 2 else weight
        found[name] = weight
    return found


def text_weights(pipeline: Any) -> dict[str, Tensor]:
    if "text_encoder_2" in pipeline.components:
        first = clip_weights(pipeline.text_encoder, "conditioner.embedders.0")
        return first | open_clip_weights(pipeline.text_encoder_2, "conditioner.embedders.1")
    if pipeline.unet.config.cross_attention_dim == 1024:
        return open_clip_weights(pipeline.text_encoder, "cond_stage_model")
    return clip_weights(pipeline.text_encoder, "cond_stage_model")


def clip_weights(text_encoder: Any, place: str) -> dict[str, Tensor]:
    """Return the text encoder's weights as 1.x has them. Old files have positions too."""
    start = f"{place}.transformer.text_model."
    weights = {k.removeprefix("text_model."): v for k, v in text_encoder.state_dict().items()}
    return {f"{start}{k}": v for k, v in weights.items()} | {f"{start}embeddings.position_ids": torch.arange(77)[None]}


def open_clip_weights(text_encoder: Any, place: str) -> dict[str, Tensor]:
    """Return the text encoder's weights as 2.x has them. Query, key and value are one matrix, and the projection, which
    2.x does not read, is transposed."""
    weights = {k.removeprefix("text_model."): v for k, v in text_encoder.state_dict().items()}
    projection = weights.get("text_projection.weight", torch.eye(text_encoder.config.hidden_size))
    found = {
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
        "text_projection": projection.T,
        "logit_scale": torch.tensor(1.0),
    }
    for number in range(text_encoder.config.num_hidden_layers):
        old, new = f"encoder.layers.{number}", f"transformer.resblocks.{number}"
        for kind in ("weight", "bias"):
            rows = [weights[f"{old}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            found[f"{new}.attn.in_proj_{kind}"] = torch.cat(rows)
            found |= {f"{new}.{there}.{kind}": weights[f"{old}.{here}.{kind}"] for here, there in OPEN_CLIP.items()}
    return {f"{place}.model.{name}": weight for name, weight in found.items()}
