"""Names of FLUX.1's layers in the published single files. Adapters follow them."""

import re
from typing import cast

from torch import nn

from finetune.models.family import SingleFileLayer
from finetune.models.interfaces import Denoiser

RENAMED = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
"""Layers outside the blocks, as the published single files of the model call them."""
RENAMED_IN_DOUBLE_BLOCKS = {
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
RENAMED_IN_SINGLE_BLOCKS = {
    "proj_out": "linear2",
    "norm.linear": "modulation.lin",
    "attn.norm_q": "norm.query_norm",
    "attn.norm_k": "norm.key_norm",
}
FUSED_IN_DOUBLE_BLOCKS = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
FUSED_IN_SINGLE_BLOCKS = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}


def published_layer(denoiser: Denoiser, module: str) -> SingleFileLayer:
    """Return the file's place of a layer of diffusers' transformer. An unknown one keeps its name."""
    block = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.+)", module)
    if block is None:
        return SingleFileLayer(RENAMED.get(module, module), swapped=module == "norm_out.linear")
    single, number, layer = block.groups()
    name = f"{single or 'double_'}blocks.{number}"
    for fused, parts in (FUSED_IN_SINGLE_BLOCKS if single else FUSED_IN_DOUBLE_BLOCKS).items():
        if layer in parts:
            inside = f"{single or ''}transformer_blocks.{number}"
            layers = [cast("nn.Linear", denoiser.get_submodule(f"{inside}.{part}")) for part in parts]
            sizes = tuple(each.out_features for each in layers)
            return SingleFileLayer(f"{name}.{fused}", parts.index(layer), sizes)
    renamed = RENAMED_IN_SINGLE_BLOCKS if single else RENAMED_IN_DOUBLE_BLOCKS
    return SingleFileLayer(f"{name}.{renamed.get(layer, layer)}")
