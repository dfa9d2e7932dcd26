"""Names of autoencoders and text encoders in the first published single files.

Autoencoders are those of CompVis' latent diffusion, whose attention has convolutions for layers. Text encoders have the
names of transformers, or those of open_clip, where query, key and value are one matrix.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
AUTOENCODER = (
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
)
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def autoencoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an autoencoder's weights. Decoders count their levels from the other end."""
    levels = {int(found[1]) for name in weights if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", name))}
    last, renamed = max(levels, default=0), dict[str, Tensor]()
    for old, weight in weights.items():
        name = re.sub(
            r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.",
            lambda m: f"decoder.up.{last - int(m[1])}.{'block' if m[2] == 'resnets' else 'upsample'}.",
            old,
        )
        for pattern, new in AUTOENCODER:
            name = re.sub(pattern, new, name)
        if ".mid.attn_1." in name:
            start, inner = name.split(".mid.attn_1.")
            layer, _, kind = inner.rpartition(".")
            name = f"{start}.mid.attn_1.{ATTENTION[layer]}.{kind}"
            weight = weight[..., None, None] if weight.ndim == 2 else weight
        renamed[name] = weight
    return renamed


def clip_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the level `text_model`. transformers 5 dropped it from encoders without a projection."""
    outside = ("text_model.", "text_projection.")
    return {name if name.startswith(outside) else f"text_model.{name}": value for name, value in weights.items()}


def open_clip_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a text encoder's weights. The projection is transposed, and the identity where there is none."""
    own = {name.removeprefix("text_model."): value for name, value in weights.items()}
    norm = own["final_layer_norm.weight"]
    projection = own.get("text_projection.weight", torch.eye(len(norm), dtype=norm.dtype, device=norm.device))
    found = {
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "ln_final.weight": norm,
        "ln_final.bias": own["final_layer_norm.bias"],
        "text_projection": projection.T,
    }
    layers = {name.split(".")[2] for name in own if name.startswith("encoder.layers.")}
    for number in sorted(layers, key=int):
        old, new = f"encoder.layers.{number}", f"transformer.resblocks.{number}"
        for kind in ("weight", "bias"):
            rows = [own[f"{old}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            found[f"{new}.attn.in_proj_{kind}"] = torch.cat(rows)
            found |= {f"{new}.{there}.{kind}": own[f"{old}.{here}.{kind}"] for here, there in OPEN_CLIP.items()}
    return found
