"""Proposed numbers: steps, rank, alpha, rates and warm-up, each with its reason.

No trainer that was examined derives these from the data, and their defaults for the same job differ by a factor of 150
in the rate and 32 in alpha / rank. So these rules are rules of thumb between the defaults of trainers, the settings of
papers, and this project's presets; each function says which. They come from real models, at least 320 channels wide;
narrow ones such as the shipped model of icons need ten times the rate (`recipes/configs/demo.yaml`), which has to be
given. Views of an image (repeats) are not an option: they follow from the steps, and per image from the column
`repeats`. Torch-free.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from finetune.config.optim import OptimConfig
from finetune.config.parse.dump import as_flat
from finetune.config.recipes import AdaptConfig
from finetune.config.train import TrainConfig
from finetune.plurals import plural

LEAST_STEPS = 100
SCALED_BATCH = 16
USUAL_SUBJECT = 50
USUAL_STYLE = 10
Weights = Literal["adapter", "all"]


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of a dataset and a batch, for proposals."""

    num_distinct: int
    """Different images to train on, by their bytes, without repeats and held-out images."""
    num_listed: int
    """Images to train on, with duplicates."""
    num_held_out: int
    num_captions: int
    """Different captions of the images to train on."""
    entries_per_pass: int
    """Images in one pass, each as often as its repeats."""
    resolution: int
    global_batch_size: int
    own_share: float = 1.0
    """Share of images from data.folder in a step; generated class images take half (DreamBooth)."""

    def __str__(self) -> str:
        return (
            f"{self.num_distinct:,} distinct images to learn from ({self.num_listed:,} listed, {self.num_held_out:,} "
            f"held out), {self.num_captions:,} distinct captions, {self.resolution} px, {self.global_batch_size:,} "
            "images per step"
        )


@dataclass(frozen=True)
class Number:
    """A proposal for one option."""

    key: str
    value: float | int
    reason: str


@dataclass(frozen=True)
class Views:
    """How many images a run sees, within limits. Each image of a small dataset is seen `each` times; in a larger one
    the total grows with the square root of the number of images, so each is seen less often."""

    each: int
    root: int | None
    least: int
    most: int | None
    source: str

    def seen(self, num_distinct: int) -> int:
        wanted = self.each * num_distinct
        if self.root is not None:
            wanted = min(wanted, round(self.root * math.sqrt(num_distinct)))
        wanted = max(wanted, self.least)
        return max(num_distinct, wanted) if self.most is None else min(wanted, self.most)


VIEWS: dict[tuple[str, Weights], Views] = {
    ("style", "adapter"): Views(
        100, 600, 400, None, "100 epochs of a small set as diffusers and OneTrainer; then by the root, 6,000 for 100"
    ),
    ("style", "all"): Views(
        40, 3000, 400, None, "40 epochs of a small set as EveryDream2; then by the root, 160,000 for 3,000"
    ),
    ("subject", "adapter"): Views(
        200, None, 500, 3000, "about 1,000 for 5 as in DreamBooth, 3,000 at most as ai-toolkit"
    ),
    ("subject", "all"): Views(160, None, 400, 2000, "400 to 800 for 5 as diffusers' DreamBooth"),
}
"""Defaults of trainers and settings of papers by goal and weights, or a middle where they disagree. Rules of thumb."""
RATES: dict[tuple[str, Weights], tuple[float, str]] = {
    ("style", "adapter"): (1e-4, "an adapter of scale 1, as diffusers, SimpleTuner and ai-toolkit"),
    ("subject", "adapter"): (1e-4, "an adapter of scale 1, as diffusers' XL DreamBooth and SimpleTuner"),
    ("style", "all"): (1e-5, "all weights move: ten times below an adapter's"),
    ("subject", "all"): (5e-6, "all weights on a subject, as DreamBooth (arXiv 2208.12242) and diffusers"),
}


def propose(config: AdaptConfig, fixed: Collection[str], facts: DatasetFacts) -> list[Number]:
    """Propose numbers for the goal, each after those it depends on. Options in `fixed` keep their value."""
    if config.goal is None:
        return []
    weights: Weights = "adapter" if trains_adapter(config) else "all"
    warmup = config.optim.warmup_steps if "optim.warmup_steps" in fixed else 0
    numbers = [steps(VIEWS[config.goal, weights], facts, warmup)]
    num_steps = config.train.steps if "train.steps" in fixed else int(numbers[0].value)
    used = as_flat(config)
    if weights == "adapter" and used.get("lora.kind") != "oft":  # whose size is not a rank
        numbers.append(rank(config.goal, facts))
        scale = used["lora.rank"] if "lora.rank" in fixed else numbers[-1].value
        numbers.append(Number("lora.alpha", float(scale), "the rank: at scale 1 a rate means the same at every rank"))
    numbers.append(rate(*RATES[config.goal, weights], config.optim, facts))
    used_rate = config.optim.lr if "optim.lr" in fixed else numbers[-1].value
    if config.train.text_encoder and not config.optim.facts.finds_lr:
        reason = "half the rate: text encoders forget first; half is EveryDream2's, others take 1/20 to 1"
        numbers.append(Number("optim.text_encoder_lr", used_rate / 2, reason))
    numbers.append(warmup_steps(num_steps, weights, config.optim))
    return numbers


def steps(views: Views, facts: DatasetFacts, warmup: int) -> Number:
    """Propose the steps in which the images of `views` are seen. At least 100: a step of Adam moves a weight by about
    the rate at most (arXiv 1412.6980, section 2.1), so a few steps move nothing however large the batch; and at least
    twice a warm-up that was given."""
    seen = views.seen(facts.num_distinct)
    own_per_step = facts.global_batch_size * facts.own_share
    wanted = seen / own_per_step
    rounded = max(round(wanted, -1) if wanted >= 100 else round(wanted), LEAST_STEPS, 2 * warmup)
    num = int(rounded)
    own_seen = num * own_per_step
    floor = "" if num <= math.ceil(wanted) + 5 else f"; at least {max(LEAST_STEPS, 2 * warmup)} steps"
    return Number(
        "train.steps",
        num,
        f"{own_seen:,.0f} images seen, {own_seen / facts.num_distinct:,.3g} views each ({views.source}{floor})",
    )


def rank(goal: str, facts: DatasetFacts) -> Number:
    """Propose the rank. Style: LyCORIS, OneTrainer and SimpleTuner ship 16; lower ranks learn few images less by heart,
    but fall behind on large datasets (LoRA Learns Less and Forgets Less, arXiv 2405.09673). Subject: trainers ship 4 to
    32; in PEFT's comparison likeness and drift rise together with the rank. The values between are a rule of thumb."""
    if goal == "subject":
        return Number("lora.rank", 16, "a subject; trainers ship 4 to 32, likeness and drift both rise with it")
    for least, value in ((10_000, 64), (1_000, 32), (10, 16)):
        if facts.num_distinct >= least:
            return Number("lora.rank", value, f"a style of {least:,} images or more")
    return Number("lora.rank", 8, "a style of fewer than 10 images: less room to learn them by heart")


def rate(value: float, reason: str, optim: OptimConfig, facts: DatasetFacts) -> Number:
    """Propose the peak rate of the denoiser. Above 16 images per step it grows with the root of the batch (square-root
    rule for adaptive methods, arXiv 2205.10287), at most four-fold; below, trainers use one rate for batches of 1 to
    16. The optimizer's row says by how much its rate is lower than Adam's, and whether it finds the rate itself."""
    if optim.facts.finds_lr:
        return Number("optim.lr", 1.0, f"{optim.name} finds the rate itself")
    growth = min(4.0, math.sqrt(max(1.0, facts.global_batch_size / SCALED_BATCH)))
    if growth > 1:
        reason += f"; times {growth:.2g} for {facts.global_batch_size:,} images per step (arXiv 2205.10287)"
    divisor, why = optim.facts.lr_divisor
    reason = "; ".join(filter(None, (reason, why)))
    return Number("optim.lr", float(f"{value / divisor * growth:.2g}"), reason)


def warmup_steps(num_steps: int, weights: Weights, optim: OptimConfig) -> Number:
    """Propose a twentieth of the run, at most the presets' warm-up. Optimizers that find the rate need none."""
    if optim.facts.finds_lr:
        return Number("optim.warmup_steps", 0, f"{optim.name} starts from a tiny rate anyway")
    most = 50 if weights == "adapter" else 500
    return Number("optim.warmup_steps", min(most, num_steps // 20), f"a twentieth of the steps, {most} at most")


def doubts(config: AdaptConfig, facts: DatasetFacts) -> list[str]:
    """List facts of the data that are unusual for the goal."""
    num, found = facts.num_distinct, []
    if config.goal == "subject" and num > USUAL_SUBJECT:
        found.append(
            f"goal: subject with {plural(num, 'image')}; usual are 3 to 30 of one subject (DreamBooth: 3 to 5). Choose "
            f"the best, or take goal style; {VIEWS['subject', 'adapter'].most:,} images seen stay the most that is "
            "proposed."
        )
    if config.goal == "style" and num < USUAL_STYLE:
        found.append(
            f"goal: style with {plural(num, 'image')}; usual are 20 to 200. The run will "
            "learn these images by heart rather than what they share."
        )
    if config.goal == "subject" and num == 1:
        found.append("goal: subject with 1 image; usual are 3 to 30. Its pose and background will be learned too.")
    if config.goal == "style" and not trains_adapter(config) and num < 500:
        found.append(
            f"goal: style with {plural(num, 'image')} for all weights; usual are thousands. An adapter forgets less."
        )
    if facts.global_batch_size > facts.num_distinct:
        found.append(f"train.batch_size: {facts.global_batch_size:,} images per step, but {num:,} distinct images.")
    return found


def trains_adapter(config: AdaptConfig) -> bool:
    """Check whether the base model is frozen. Then there is a section lora, and method is not full."""
    used = as_flat(config)
    return "lora.rank" in used and used.get("method", "lora") == "lora"


def own_share(config: TrainConfig) -> float:
    """Return the share of data.folder in a step's images. Class images take the other half."""
    of_class = any(each.is_regularisation for each in config.data.folders)
    return 0.5 if of_class or as_flat(config).get("prior.kind") == "pictures" else 1.0
