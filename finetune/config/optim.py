"""Optimizers, one row of facts each, and their options; torch-free."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from finetune.config.facts import CountOrZero, Mark, NotNegative, Positive, Resume, Share, ShareBelowOne
from finetune.plurals import either

Schedule = Literal["constant", "cosine", "linear"]
Weights = Literal["fp32", "bf16_stochastic", "bf16_kahan"]


@dataclass(frozen=True)
class OptimizerFacts:
    """Facts of an optimizer. Nothing else in the code depends on its name."""

    place: str
    """"package.module:Class", imported when it is built."""
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    """Arguments of the class besides those that options set."""
    has_betas: bool = True
    """It has the averages that beta1 and beta2 are for."""
    state_bytes: float = 8.0
    """Bytes of state per weight."""
    float32_below: int = 0
    """Tensors of fewer weights keep it in float32, where others have 8 bits and scales."""
    is_factored: bool = False
    """A matrix keeps the averages of its rows and columns alone, in float32 (arXiv 1804.04235)."""
    same_on_cpu: str | None = None
    """The optimizer that it equals without a GPU, if it is for GPUs."""
    lr_divisor: tuple[float, str] = (1, "")
    """Proposed rates are divided by this number, and the reason."""
    finds_lr: bool = False
    """It finds the rate itself, one for all weights; optim.lr multiplies it."""
    updates_alone: bool = True
    """It can update one weight without the others. Those that keep a number for all weights together cannot."""
    shards: bool = False
    """Its update of a part of a weight is that part of the whole update, so each process can hold a part (FSDP)."""
    is_for_matrices: bool = False
    """It treats matrices as such, so embeddings are groups of their own."""
    averages_weights: bool = False
    """Its average of the weights replaces a schedule, and is what is validated and exported."""

    @property
    def has_small_state(self) -> bool:
        """Its state takes about a quarter of AdamW's memory, or less."""
        return self.is_factored or self.state_bytes < 2.5


OPTIMIZERS: Mapping[str, OptimizerFacts] = {
    "adamw": OptimizerFacts("torch.optim:AdamW", {"fused": True}, shards=True),
    "adamw8bit": OptimizerFacts("bitsandbytes.optim:AdamW8bit", state_bytes=2 + 8 / 256, float32_below=4096),
    "paged_adamw8bit": OptimizerFacts(
        "bitsandbytes.optim:PagedAdamW8bit",
        state_bytes=2 + 8 / 256,  # a float32 scale for each average of 256 weights
        float32_below=4096,
        same_on_cpu="adamw8bit",
    ),
    "lion8bit": OptimizerFacts(
        "bitsandbytes.optim:Lion8bit",
        state_bytes=1 + 4 / 256,
        float32_below=4096,
        lr_divisor=(5, "a fifth of it for Lion (arXiv 2302.06675)"),
    ),  # which says 3 to 10 times less than Adam (section 5)
    "adafactor": OptimizerFacts("torch.optim:Adafactor", has_betas=False, state_bytes=4.0, is_factored=True),
    "prodigy": OptimizerFacts(
        "prodigyopt:Prodigy",
        {"safeguard_warmup": True, "use_bias_correction": True},
        state_bytes=16.0,
        finds_lr=True,  # its own estimate times 1 (arXiv 2306.06101)
        updates_alone=False,
    ),
    "muon": OptimizerFacts("finetune.optim.muon:Muon", is_for_matrices=True),
    "adamw_schedule_free": OptimizerFacts(
        "schedulefree:AdamWScheduleFree", updates_alone=False, averages_weights=True, shards=True
    ),
}
SMALL_STATE = "adamw8bit"
"""The optimizer that saves memory at the least change."""
if TYPE_CHECKING:
    Optimizer = str
else:
    Optimizer = Literal[tuple(OPTIMIZERS)]


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning rate."""

    name: Annotated[Optimizer, Resume.FIXED] = "adamw"
    """Optimizer; the 8bit ones come from bitsandbytes."""
    lr: Annotated[Positive, Mark.PROPOSED] = 1e-4
    """Peak learning rate of the denoiser; prodigy wants 1.0."""
    text_encoder_lr: Annotated[Positive | None, Mark.PROPOSED] = None
    """Peak learning rate of a trained text encoder; none takes lr."""
    weight_decay: NotNegative = 1e-2
    """Decoupled weight decay."""
    beta1: ShareBelowOne = 0.9
    """Decay of the gradient average."""
    beta2: ShareBelowOne = 0.999
    """Decay of the squared-gradient average."""
    schedule: Schedule = "constant"
    """Shape of the learning rate after the warm-up."""
    warmup_steps: Annotated[CountOrZero, Mark.PROPOSED] = 0
    """Steps over which the learning rate rises from 0 to its peak."""
    final_lr_ratio: Share = 0.0
    """Learning rate that cosine and linear fall to, over its peak."""
    weights: Annotated[Weights, Resume.FIXED] = "fp32"
    """Number format of the trained weights and their gradients: bf16 halves their memory; updates are then rounded at
    random (stochastic) or with a second bfloat16 number per weight (kahan), so small ones are not lost."""
    in_backward: Annotated[bool, Resume.FREE] = False
    """Update each weight as soon as its gradient is there, and free that; one process, no accumulation, no clipping."""

    @property
    def facts(self) -> OptimizerFacts:
        return OPTIMIZERS[self.name]

    def problems(self) -> Iterator[str]:
        if self.facts.averages_weights and self.schedule != "constant":
            yield f"optim.schedule: got {self.schedule} with {self.name}, which replaces a schedule. Use constant."
        if not self.facts.updates_alone:
            others = either([name for name, facts in OPTIMIZERS.items() if facts.updates_alone])
            for key, given, default in (("weights", self.weights, "fp32"), ("in_backward", self.in_backward, False)):
                if given != default:
                    yield (
                        f"optim.{key}: got {str(given).lower()} with {self.name}, which cannot update one weight "
                        f"without the others. Use {others}."
                    )
