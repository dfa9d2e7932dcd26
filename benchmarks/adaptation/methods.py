"""The methods that benchmarks/methods.py compares, each a recipe and its options."""

from dataclasses import dataclass
from typing import Literal

TOKEN = "<zqx>"
RARE = "zqx"
PHRASE = f"{{caption}}, {RARE} style"
"""The style's phrase in captions and prompts, in the order of the base model's captions; no caption had the word."""
TOKEN_PHRASE = f"{{caption}}, {TOKEN} style"
CONVOLUTIONS = ("conv1", "conv2", "time_emb_proj", "conv", "conv_shortcut")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
TARGETS = ("--lora.targets", *ATTENTION, *CONVOLUTIONS)
LORA = ("--lora.rank", "32", "--lora.alpha", "32", *TARGETS, "--optim.lr", "1e-3")
TOKENS = ("--tokens.names", TOKEN)


@dataclass(frozen=True)
class Method:
    """A way to adapt the model."""

    name: str
    recipe: str
    options: tuple[str, ...]
    part: Literal["style", "subject"]
    template: str = "{caption}"
    """Text that training puts around captions and drawing around prompts; {caption} is the concept or the class."""
    captions: Literal["written", "none", "prompts"] = "written"
    """How the subject's name gets to the recipe: as the images' captions, as data.template alone, or as the prompts
    of recipes.dreambooth."""
    is_repeated: bool = False
    """True if the style part trains it with every seed; else it trains with the first."""


STYLE = (
    Method("lora", "recipes.lora", LORA, "style", PHRASE, is_repeated=True),
    Method("lora-attention", "recipes.lora", (*LORA[:4], "--optim.lr", "1e-3"), "style", PHRASE),
    Method("full", "recipes.full", ("--optim.lr", "3e-4"), "style", PHRASE),
    Method("textual-inversion", "recipes.textual_inversion", (*TOKENS, "--optim.lr", "1e-2"), "style", TOKEN_PHRASE),
    Method("pivotal", "recipes.lora", (*LORA, *TOKENS, "--tokens.lr", "1e-3"), "style", TOKEN_PHRASE),
    Method("dora", "recipes.lora", (*LORA, "--lora.dora", "true"), "style", PHRASE),
    Method("lokr", "recipes.lora", (*LORA, "--lora.kind", "lokr"), "style", PHRASE),
    Method("loha", "recipes.lora", (*LORA, "--lora.kind", "loha"), "style", PHRASE),
    Method("pissa", "recipes.lora", (*LORA, "--lora.init", "pissa"), "style", PHRASE),
)
PRIOR_PICTURES = ("--prior.kind", "pictures", "--prior.num_pictures", "32", "--prior.guidance_scale", "3")
SUBJECT = (
    Method("lora", "recipes.lora", LORA, "subject", f"{RARE} {{caption}}"),
    Method(
        "dreambooth", "recipes.dreambooth", (*LORA, "--prior.kind", "none"), "subject", f"{RARE} {{caption}}", "prompts"
    ),
    Method(
        "dreambooth-pictures",
        "recipes.dreambooth",
        (*LORA, *PRIOR_PICTURES),
        "subject",
        f"{RARE} {{caption}}",
        "prompts",
    ),
    Method(
        "dreambooth-prediction",
        "recipes.dreambooth",
        (*LORA, "--prior.kind", "prediction"),
        "subject",
        f"{RARE} {{caption}}",
        "prompts",
    ),
    Method(
        "dreambooth-full",
        "recipes.dreambooth",
        ("--method", "full", "--optim.lr", "3e-4", *PRIOR_PICTURES),
        "subject",
        f"{RARE} {{caption}}",
        "prompts",
    ),
    Method(
        "textual-inversion",
        "recipes.textual_inversion",
        (*TOKENS, "--optim.lr", "1e-2"),
        "subject",
        f"{TOKEN} {{caption}}",
        "none",
    ),
    Method(
        "pivotal", "recipes.lora", (*LORA, *TOKENS, "--tokens.lr", "1e-3"), "subject", f"{TOKEN} {{caption}}", "none"
    ),
)
SHARED = (
    "--data.resolution", "64", "--data.bucket_step", "16", "--data.max_aspect", "1", "--data.flip", "true",
    "--data.num_workers", "0",
    "--train.batch_size", "16", "--train.log_every", "10", "--optim.weight_decay", "0", "--optim.schedule", "cosine",
    "--loss.weighting", "none", "--validation.every", "0", "--tracking.names", "--output.dtype", "fp32",
)  # fmt: skip
"""Options of all runs, from the demo's preset, which explains them."""
BATCH_SIZE = 16
RATE, RANK = 1e-3, 32
"""Of LORA, for other programs."""
