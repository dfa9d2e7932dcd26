"""Names of the transformer's layers in the original Stable Diffusion 3 files.

sd-scripts and ComfyUI use them. Query, key and value are one layer there, in this order. Outputs that diffusers has as
scale and shift are shift and scale there in the two norms that have no gate.
"""

from finetune.models.family import SingleFileLayer
from finetune.models.interfaces import Denoiser

OUTSIDE = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
INSIDE = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
FUSED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}


def single_file_layer(denoiser: Denoiser, module: str) -> SingleFileLayer:
    """Return the original checkpoint's place of a layer of the transformer."""
    if module in OUTSIDE:
        return SingleFileLayer(OUTSIDE[module], swapped=module == "norm_out.linear")
    _, number, inside = module.split(".", 2)
    block = f"joint_blocks.{number}"
    if inside in INSIDE:
        last = int(number) == denoiser.config.num_layers - 1
        return SingleFileLayer(f"{block}.{INSIDE[inside]}", swapped=last and inside == "norm1_context.linear")
    width = denoiser.config.num_attention_heads * denoiser.config.attention_head_dim
    for name, parts in FUSED.items():
        if inside in parts:
            return SingleFileLayer(f"{block}.{name}", parts.index(inside), (width,) * len(parts))
    raise AssertionError(f"{module} is not a layer of the transformer")
