"""Names of a U-Net's layers in generative-models, for SDXL's single files. In that code of Stability AI, every resnet,
down- and upsampler, with the attention behind it, is one numbered step of three long lists."""

from finetune.models.interfaces import Settings

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def sgm_name(config: Settings, module: str) -> str:
    """Return the name there of diffusers' layer `module`. `config` is that of the U-Net. input_blocks has conv_in, then
    for each level its resnets and its downsampler; output_blocks the resnets of each level, the upsampler within the
    step of the last."""
    resnets = config.layers_per_block
    match module.split("."):
        case ["down_blocks", level, "downsamplers", "0", "conv"]:
            return f"input_blocks.{(int(level) + 1) * (resnets + 1)}.0.op"
        case ["down_blocks", level, kind, number, *inner]:
            step = 1 + int(level) * (resnets + 1) + int(number)
            return ".".join([f"input_blocks.{step}", *within_step(kind, inner)])
        case ["mid_block", "attentions", "0", *inner]:
            return ".".join(["middle_block.1", *inner])
        case ["mid_block", "resnets", number, *inner]:
            return ".".join([f"middle_block.{2 * int(number)}", *within_step("resnets", inner)[1:]])
        case ["up_blocks", level, "upsamplers", "0", "conv"]:
            place = 2 if config.up_block_types[int(level)].startswith("CrossAttn") else 1
            return f"output_blocks.{int(level) * (resnets + 1) + resnets}.{place}.conv"
        case ["up_blocks", level, kind, number, *inner]:
            step = int(level) * (resnets + 1) + int(number)
            return ".".join([f"output_blocks.{step}", *within_step(kind, inner)])
    return OUTSIDE.get(module, module)


def within_step(kind: str, inner: list[str]) -> list[str]:
    """Return a layer's place in its step of resnet and attention."""
    return ["0", *(RESNET.get(part, part) for part in inner)] if kind == "resnets" else ["1", *inner]
