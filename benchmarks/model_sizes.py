"""Parameters and memory of the published models, without their weights.

    python benchmarks/model_sizes.py [--rank 16] [--only "SD 1.5" ...]

The models are built from their published configs on PyTorch's meta device, as diffusers' and transformers' own classes,
and the script fails where a number of parameters is not the public one, to the digits that it has. Public figures stand
with their sources: papers and announcements, and what others counted in the published weights. Memory is that of the
weights alone, with the buffers that are saved beside them: in 8 bits the weights of linear layers have a float32 scale
a row (LLM.int8(), arXiv 2208.07339), in NF4 an 8-bit scale for every 64 weights and a float32 one for every 256 of
those (QLoRA, arXiv 2305.14314, section 3), and the rest is in bfloat16. Adapters are those of the project's own code on
the family's default layers; beside their float32 weights stand gradients and AdamW's two moments. Activations and
what the device's libraries take are not in it.
"""

# diffusers annotates tuples of several as tuples of one.
# pyright: reportArgumentType=false

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel
from diffusers import UNet2DConditionModel as UNet
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from finetune.config.lora import LoRAConfig
from finetune.methods.lora.adapters import attach_adapters
from finetune.models import family_named
from finetune.models.family import Network

GB = 1e9
UNITS = {"": 1, "M": 1_000_000, "B": 1_000_000_000}


@dataclass(frozen=True)
class Part:
    """One part of a model."""

    name: str
    build: Callable[[], nn.Module]
    published: str
    """The number of parameters as its source writes it, with M for millions and B for billions."""
    source: str
    with_buffers: bool = False
    """The source counts what is saved and never trained, SD3's table of positions, too."""

    @property
    def published_range(self) -> tuple[float, float]:
        """Return the range of numbers that round to the published one."""
        digits, _, unit = self.published.partition(" ")
        decimals = len(digits.partition(".")[2])
        half = UNITS[unit] * 10.0**-decimals / 2 if unit else 0.0
        number = float(digits.replace(",", "")) * UNITS[unit]
        return number - half, number + half


@dataclass(frozen=True)
class Model:
    """A published model; its first part is the denoiser."""

    name: str
    family: str
    resolution: int
    """The side of the images that it was trained on last."""
    parts: tuple[Part, ...]


def sdxl_unet() -> UNet:
    return UNet(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def sd3_transformer(layers: int, **options: Any) -> SD3Transformer2DModel:
    """Build a transformer of SD3 or 3.5. Heads are as many as layers."""
    return SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=layers,
        attention_head_dim=64,
        num_attention_heads=layers,
        joint_attention_dim=4096,
        caption_projection_dim=64 * layers,
        pooled_projection_dim=2048,
        **options,
    )


def flux_transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=19,
        num_single_layers=38,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=4096,
        pooled_projection_dim=768,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )


def vae(latent_channels: int, *, quant_conv: bool) -> AutoencoderKL:
    """Build the autoencoder of all these models; their latents differ."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=latent_channels,
        use_quant_conv=quant_conv,
        use_post_quant_conv=quant_conv,
    )


def clip_config(width: int, layers: int, heads: int, projection: int) -> CLIPTextConfig:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return CLIPTextConfig(**sizes, num_attention_heads=heads, projection_dim=projection)


def t5() -> T5EncoderModel:
    sizes = {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))


MII = "microsoft/DeepSpeed-MII, README.md"
AITUNE = "ai-dynamo/aitune, docs/guides/aot_inspect.md"
ANNOUNCED = "Stability AI announcing 3.5, as others quote it"
BUDDY = "buddy-compiler/buddy-mlir, examples/BuddyStableDiffusion"

CLIP_L = Part("CLIP ViT-L/14", lambda: CLIPTextModel(clip_config(768, 12, 12, 768)), "123,060,480", MII)
CLIP_L_POOLED = Part(
    "CLIP ViT-L/14", lambda: CLIPTextModelWithProjection(clip_config(768, 12, 12, 768)), "123,650,304", AITUNE
)
CLIP_H = Part("OpenCLIP ViT-H/14", lambda: CLIPTextModel(clip_config(1024, 23, 16, 512)), "340,387,840", BUDDY)
CLIP_G = Part(
    "OpenCLIP bigG/14",
    lambda: CLIPTextModelWithProjection(clip_config(1280, 32, 20, 1280)),
    "694.66 M",
    "mlfoundations/open_clip, docs/model_profile.csv",
)
T5_XXL = Part("T5 XXL encoder", t5, "4,762,310,656", AITUNE)
VAE4 = Part("VAE, 4 channels", lambda: vae(4, quant_conv=True), "83,653,863", MII)
VAE_SIZE = "168 MB in bfloat16: stable-diffusion-3.5-medium, vae"
VAE16 = Part("VAE, 16 channels", lambda: vae(16, quant_conv=False), "84 M", VAE_SIZE)
BESIDE_SD3 = CLIP_L_POOLED, CLIP_G, T5_XXL, VAE16

SD15_UNET = Part("U-Net", lambda: UNet(cross_attention_dim=768, attention_head_dim=8), "859,520,964", MII)
SD21_UNET = Part(
    "U-Net",
    lambda: UNet(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True),
    "865,910,724",
    BUDDY,
)
SDXL_UNET = Part("U-Net", sdxl_unet, "2.6 B", "SDXL, arXiv 2307.01952, table 1")
SD3_MEDIUM = Part("transformer", lambda: sd3_transformer(24, pos_embed_max_size=192), "2,028,328,000", AITUNE)
SD35_MEDIUM = Part(
    "transformer",
    lambda: sd3_transformer(24, pos_embed_max_size=384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13))),
    "2.5 B",
    ANNOUNCED,
    with_buffers=True,
)
SD35_LARGE = Part(
    "transformer",
    lambda: sd3_transformer(38, pos_embed_max_size=192, qk_norm="rms_norm"),
    "8.1 B",
    ANNOUNCED,
    with_buffers=True,
)
FLUX = Part("transformer", flux_transformer, "11,901,408,320", "kohya-ss/sd-scripts, log in pull request 1374")

MODELS = (
    Model("SD 1.5", "sd", 512, (SD15_UNET, CLIP_L, VAE4)),
    Model("SD 2.1", "sd", 768, (SD21_UNET, CLIP_H, VAE4)),
    Model("SDXL", "sdxl", 1024, (SDXL_UNET, CLIP_L, CLIP_G, VAE4)),
    Model("SD3 medium", "sd3", 1024, (SD3_MEDIUM, *BESIDE_SD3)),
    Model("SD3.5 medium", "sd3", 1024, (SD35_MEDIUM, *BESIDE_SD3)),
    Model("SD3.5 large", "sd3", 1024, (SD35_LARGE, *BESIDE_SD3)),
    Model("FLUX.1 dev", "flux", 1024, (FLUX, CLIP_L, T5_XXL, VAE16)),
)


def on_meta(part: Part) -> nn.Module:
    """Return the part without memory for its weights."""
    with torch.device("meta"):
        return part.build()


def num_parameters(module: nn.Module) -> int:
    """Return the number of parameters, one that is used twice counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def num_values(module: nn.Module) -> int:
    """Count the numbers in the part's file. These are parameters, and buffers that are saved."""
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    saved = [value.numel() for name, value in module.state_dict().items() if name not in names]
    return num_parameters(module) + sum(saved)


def memory(module: nn.Module) -> dict[str, float]:
    """Return the bytes that the part takes in each number format."""
    total = num_values(module)
    linear = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    inside, rows = sum(weight.numel() for weight in linear), sum(len(weight) for weight in linear)
    rest = 2 * (total - inside)
    return {
        "fp32": 4 * total,
        "bf16": 2 * total,
        "8-bit": rest + inside + 4 * rows,
        "NF4": rest + inside * (1 / 2 + 1 / 64 + 4 / (64 * 256)),
    }


def adapter_parameters(family: str, denoiser: nn.Module, rank: int) -> int:
    """Return the parameters of the family's default adapters."""
    network = Network(family_named(family), denoiser)
    with torch.device("meta"):
        attach_adapters(network, LoRAConfig(rank=rank), seed=0)
    return sum(parameter.numel() for name, parameter in network.named_parameters() if ".lora_" in name)


def table(models: Sequence[Model], rank: int) -> tuple[str, list[str]]:
    """Return the table, and parts whose number is not the published one."""
    head = f"{'':21} {'parameters':>15} {'published':>15}"
    head += "".join(f"{name + ' GB':>9}" for name in ("fp32", "bf16", "8-bit", "NF4")) + "  published by"
    lines, wrong = [], []
    for model in models:
        lines += ["", model.name, head]
        sums = dict.fromkeys(("fp32", "bf16", "8-bit", "NF4"), 0.0)
        for part in model.parts:
            module = on_meta(part)
            count, found = num_parameters(module), memory(module)
            sums = {name: value + found[name] for name, value in sums.items()}
            row = f"  {part.name:19} {count:>15,} {part.published:>15}"
            note = f" ({num_values(module) - count:,} positions too)" if part.with_buffers else ""
            lines.append(row + "".join(f"{value / GB:9.2f}" for value in found.values()) + f"  {part.source}{note}")
            least, most = part.published_range
            if not least <= (num_values(module) if part.with_buffers else count) <= most:
                wrong.append(f"{model.name}, {part.name}: {count:,} parameters, published {part.published}")
        lines.append(f"  {'all parts':51}" + "".join(f"{value / GB:9.2f}" for value in sums.values()))
        trained = adapter_parameters(model.family, on_meta(model.parts[0]), rank)
        lines.append(
            f"  LoRA of rank {rank}: {trained:,} parameters ({trained / num_parameters(on_meta(model.parts[0])):.2%}), "
            f"{4 * trained / GB:.3f} GB, with gradients and AdamW's moments {16 * trained / GB:.3f} GB"
        )
    return "\n".join(lines), wrong


def main() -> None:
    """Print the table; exit with 1 for unpublished numbers of parameters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=16, help="rank of the adapters (16)")
    parser.add_argument("--only", nargs="+", choices=[model.name for model in MODELS], help="models (all)")
    options = parser.parse_args()
    chosen = [model for model in MODELS if options.only is None or model.name in options.only]
    text, wrong = table(chosen, options.rank)
    print(text)
    if wrong:
        print("\nNot the published number:", *wrong, sep="\n  ")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
