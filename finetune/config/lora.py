"""The options of low-rank adapters and their relatives; no torch here."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from finetune.config.facts import ActsWith, Bound, Count, Mark, Positive, Resume, ShareBelowOne, at_least

DEFAULT_RANK = 16
KINDS_WITHOUT_RANK = ("oft",)

Init = Literal["default", "gaussian", "orthogonal", "pissa", "olora"]
OF_LORA = ActsWith("kind", "lora")
FACTOR = Bound(lambda value: value >= 1 or value == -1, "1 or more, or -1")


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters (LoRA, arXiv 2106.09685) and relatives."""

    kind: Annotated[Literal["lora", "loha", "lokr", "oft"], Resume.FIXED] = "lora"
    """How a weight changes: lora adds a low-rank product (arXiv 2106.09685); loha the elementwise product of two of
    them (FedPara, arXiv 2108.06098); lokr a Kronecker product (arXiv 2309.14859); oft multiplies by rotations (arXiv
    2306.07280)."""
    rank: Annotated[Count, Resume.FIXED, Mark.PROPOSED] = DEFAULT_RANK
    """Rank of the update matrices; oft takes block_size instead."""
    alpha: Annotated[Positive | None, Mark.PROPOSED] = None
    """Scale of the update is alpha / rank; none takes the rank, for a scale of 1."""
    dropout: Annotated[ShareBelowOne, OF_LORA] = 0.0
    """Dropout on the adapters' input (kind lora)."""
    targets: Annotated[tuple[str, ...], Resume.FIXED] = ()
    """Names of the adapted layers (a module's name ends with one of them, in which * is any one part of it); none uses
    the family's choice."""
    conv: Annotated[bool, Resume.FIXED] = False
    """Adapt the convolutions of the denoiser's residual blocks and samplers too (LoCon, arXiv 2309.14859)."""
    rslora: Annotated[bool, OF_LORA, Resume.FIXED] = False
    """Scale by alpha / sqrt(rank), so high ranks learn as fast as low ones (rsLoRA, arXiv 2312.03732; kind lora)."""
    dora: Annotated[bool, OF_LORA, Resume.FIXED] = False
    """Learn the length of each row of a weight apart from its direction (DoRA, arXiv 2402.09353; kind lora). It starts
    from the base model; its single file holds whole weight differences and is large."""
    init: Annotated[Init, OF_LORA, Resume.FIXED] = "default"
    """Where A and B start (kind lora): default draws A uniformly, gaussian normally, with B = 0; orthogonal draws both
    in spaces that are orthogonal to each other; pissa takes the weight's largest singular vectors (PiSSA, arXiv
    2404.02948), olora its QR factors (OLoRA, arXiv 2406.01775). Those two leave the rest of the weight frozen, so the
    prediction is that of the base model up to rounding; their files have twice the rank and fit the base
    model, and weight decay is off for them."""
    start: Annotated[Path | None, OF_LORA, Mark.START] = None
    """LoRA file of any trainer, or folder of peft, to continue training from (kind lora). Every layer of it must be
    adapted by the run; LoHa, LoKr and whole differences are cut to lora.rank."""
    start_rank: Annotated[Literal["file", "run"], OF_LORA, Resume.FIXED] = "file"
    """Ranks and alphas of layers that lora.start has: the file's, or the run's, by singular values."""
    rank_pattern: Annotated[tuple[str, ...], Resume.FIXED] = ()
    """REGEX=NUMBER: rank of the layers whose name (denoiser.mid_block..., text_encoders.0...) contains a match; the
    first that matches counts."""
    alpha_pattern: tuple[str, ...] = ()
    """REGEX=NUMBER: alpha of such layers; else it is alpha, and where that is none the layer's rank."""
    plus_ratio: Annotated[Positive, OF_LORA, Resume.FIXED] = 1.0
    """Learning rate of B over that of A (LoRA+, arXiv 2402.12354, which takes 16; kind lora)."""
    factor: Annotated[int, FACTOR, ActsWith("kind", "lokr"), Resume.FIXED] = 8
    """Side of the small Kronecker factor of lokr; -1 takes the divisor nearest to the square root, for tiny files."""
    block_size: Annotated[int | None, at_least(2), ActsWith("kind", *KINDS_WITHOUT_RANK), Resume.FIXED] = None
    """Side of the rotations of oft, which must divide the width of every adapted layer; none takes 32."""

    def problems(self) -> list[str]:
        return [*self._wrong_targets(), *self._wrong_patterns(), *self._contradictions()]

    def _wrong_targets(self) -> Iterator[str]:
        for text in self.targets:
            names = re.findall(r"[\w.*]+", text)
            if names != [text]:
                several = (
                    f"Separate them by spaces: {' '.join(names)}." if "," in text else "Omit it for the usual ones."
                )
                yield f"lora.targets: got {text}, expected names of layers such as to_q to_v. {several}"

    def _wrong_patterns(self) -> Iterator[str]:
        for name, patterns in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
            for text in patterns:
                pattern, _, number = text.rpartition("=")
                try:
                    re.compile(pattern)
                    value = int(number) if name == "rank_pattern" else float(number)
                except (ValueError, re.error):
                    value = math.nan
                if not pattern or not 0 < value < math.inf:
                    yield f'lora.{name}: got "{text}", expected REGEX=NUMBER such as attn2=8, with a number above 0.'

    def _contradictions(self) -> Iterator[str]:
        if self.kind in KINDS_WITHOUT_RANK:
            given_rank = self.rank != DEFAULT_RANK
            for name, given in (
                ("rank", given_rank),
                ("alpha", self.alpha is not None),
                ("rank_pattern", bool(self.rank_pattern)),
                ("alpha_pattern", bool(self.alpha_pattern)),
            ):
                if given:
                    yield (
                        f"lora.{name}: got {getattr(self, name)} with kind {self.kind}, whose size is lora.block_size "
                        "and which has no scale. Remove it, or in a preset override it: "
                        f"--lora.{name} {DEFAULT_RANK if name == 'rank' else 'none' if name == 'alpha' else ''}"
                    )
            if self.conv:
                yield (
                    f"lora.conv: got true with kind {self.kind}, which changes the base model's prediction where "
                    "a kernel is larger than 1 (peft 0.21 sums overlapping patches). Remove it."
                )
        if self.dora and self.init in ("pissa", "olora"):
            yield f"lora.init: got {self.init} with dora true; both replace the weight by parts. Remove one of them."
        yield from self._unfit_start()

    def _unfit_start(self) -> Iterator[str]:
        if self.start is None:
            if self.start_rank != "file":
                yield f"lora.start_rank: got {self.start_rank} without lora.start. Name the file, or remove it."
            return
        if not self.start.exists():
            yield (
                f"lora.start: no file or folder {self.start}, expected a LoRA in safetensors, or a folder that peft "
                "wrote. Correct the path."
            )
        elif self.start.is_file() and self.start.suffix != ".safetensors":
            yield f"lora.start: {self.start.name} is not a safetensors file. Use a LoRA in safetensors."
        if self.dora or self.init in ("pissa", "olora"):
            name, value = ("dora", "true") if self.dora else ("init", self.init)
            yield (
                f"lora.{name}: got {value} with lora.start, whose low-rank matrices are added to the base model's "
                "weights as they are. Remove one of them."
            )


def parsed_patterns(patterns: tuple[str, ...]) -> list[tuple[re.Pattern[str], float]]:
    """Return "REGEX=NUMBER" texts as pairs. The last = counts, so an expression may contain one."""
    parts = [text.rpartition("=") for text in patterns]
    return [(re.compile(pattern), float(number)) for pattern, _, number in parts]
