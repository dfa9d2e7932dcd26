"""The options of low-rank adapters and their relatives; no torch here."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

DEFAULT_RANK = 16
KINDS_WITHOUT_RANK = ("oft",)

Init = Literal["default", "gaussian", "orthogonal", "pissa", "olora"]


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters (LoRA, arXiv 2106.09685) and relatives."""

    kind: Literal["lora", "loha", "lokr", "oft"] = "lora"
    """How a weight changes: lora adds a low-rank product (arXiv 2106.09685); loha the elementwise product of two of
    them (FedPara, arXiv 2108.06098); lokr a Kronecker product (arXiv 2309.14859); oft multiplies by rotations (arXiv
    2306.07280)."""
    rank: int = DEFAULT_RANK
    """Rank of the update matrices; oft takes block_size instead."""
    alpha: float | None = None
    """Scale of the update is alpha / rank; none takes the rank, for a scale of 1."""
    dropout: float = 0.0
    """Dropout on the adapters' input (kind lora)."""
    targets: tuple[str, ...] = ()
    """Names of the adapted layers (a module's name ends with one of them, in which * is any one part of it); none takes
    the family's choice."""
    conv: bool = False
    """Adapt the convolutions of the denoiser's residual blocks and samplers too (LoCon, arXiv 2309.14859)."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank), so high ranks learn as fast as low ones (rsLoRA, arXiv 2312.03732; kind
    lora)."""
    dora: bool = False
    """Learn the length of each row of a weight apart from its direction (DoRA, arXiv 2402.09353; kind lora). It starts
    from the base model; its single file holds whole weight differences and is large."""
    init: Init = "default"
    """Where A and B start (kind lora): default draws A uniformly, gaussian normally, with B = 0; orthogonal draws both
    in spaces that are orthogonal to each other; pissa takes the weight's largest singular vectors (PiSSA, arXiv
    2404.02948), olora its QR factors (OLoRA, arXiv 2406.01775). Those two leave the rest of the weight frozen, so the
    prediction is that of the base model up to rounding; their files have twice the rank and fit the base
    model, and weight decay is off for them."""
    rank_pattern: tuple[str, ...] = ()
    """REGEX=NUMBER: rank of the layers whose name (denoiser.mid_block..., text_encoders.0...) contains a match; the
    first that matches counts."""
    alpha_pattern: tuple[str, ...] = ()
    """REGEX=NUMBER: alpha of such layers; else it is alpha, and where that is none the layer's rank."""
    plus_ratio: float = 1.0
    """Learning rate of B over that of A (LoRA+, arXiv 2402.12354, which takes 16; kind lora)."""
    factor: int = 8
    """Side of the small Kronecker factor of lokr; -1 takes the divisor nearest to the square root, for tiny files."""
    block_size: int | None = None
    """Side of the rotations of oft, which must divide the width of every adapted layer; none takes 32."""

    def problems(self) -> list[str]:
        return [*self._wrong_numbers(), *self._wrong_patterns(), *self._contradictions()]

    def _wrong_numbers(self) -> Iterator[str]:
        if self.rank < 1:
            yield f"lora.rank: got {self.rank}, expected 1 or more."
        if self.alpha is not None and self.alpha <= 0:
            yield f"lora.alpha: got {self.alpha}, expected a number above 0, or none."
        if not 0 <= self.dropout < 1:
            yield f"lora.dropout: got {self.dropout}, expected a share from 0 to below 1."
        if self.plus_ratio <= 0:
            yield f"lora.plus_ratio: got {self.plus_ratio}, expected a number above 0."
        if self.factor < 1 and self.factor != -1:
            yield f"lora.factor: got {self.factor}, expected 1 or more, or -1."
        if self.block_size is not None and self.block_size < 2:
            yield f"lora.block_size: got {self.block_size}, expected 2 or more."

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
        if self.kind != "lora":
            for name, given in (
                ("dropout", self.dropout != 0),
                ("rslora", self.rslora),
                ("dora", self.dora),
                ("init", self.init != "default"),
                ("plus_ratio", self.plus_ratio != 1),
            ):
                if given:
                    yield f"lora.{name}: got {getattr(self, name)} with kind {self.kind}, which has none. Remove it."
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
        elif self.block_size is not None:
            yield f"lora.block_size: given with kind {self.kind}, which takes lora.rank. Remove it."
        if self.kind != "lokr" and self.factor != 8:
            yield f"lora.factor: given with kind {self.kind}; it is a number of lokr. Remove it."
        if self.dora and self.init in ("pissa", "olora"):
            yield (f"lora.init: got {self.init} with dora true; both replace the weight by parts. Remove one of them.")


def parsed_patterns(patterns: tuple[str, ...]) -> list[tuple[re.Pattern[str], float]]:
    """Return "REGEX=NUMBER" texts as pairs. The last = counts, so an expression may contain one."""
    found = []
    for text in patterns:
        pattern, _, number = text.rpartition("=")
        found.append((re.compile(pattern), float(number)))
    return found
