"""Records of columns, one value per sample, handled as one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self, TypeVar, cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A record of columns. A column is a tensor [B ...], a tuple of B values, a dict of tensors, other rows, or None. A
    subclass only names its columns: every operation applies to all of them."""

    def map(self, change: Callable[..., object], *others: Self) -> Self:
        """Apply a function to every column. It gets the same column of `others`, too."""
        columns = {
            field.name: changed(change, [getattr(rows, field.name) for rows in (self, *others)])
            for field in fields(self)
        }
        return replace(self, **columns)

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """Move the tensors to a device; Accelerate's data loader calls this."""

        def moved(column: object) -> object:
            return column.to(device, non_blocking=non_blocking) if isinstance(column, Tensor) else column

        return self.map(moved)

    def pin_memory(self) -> Self:
        """Copy the tensors to page-locked memory. A DataLoader that pins calls this; it knows no other way in."""

        def pinned(column: object) -> object:
            return column.pin_memory() if isinstance(column, Tensor) else column

        return self.map(pinned)

    def part(self, chosen: slice) -> Self:
        """Take the chosen rows."""

        def cut(column: Tensor | tuple[object, ...]) -> object:
            return column[chosen]

        return self.map(cut)


AnyRows = TypeVar("AnyRows", bound=Rows)


def join_rows(parts: Sequence[AnyRows]) -> AnyRows:
    """Put the rows of all parts behind each other."""

    def joined(*columns: object) -> object:
        if isinstance(columns[0], Tensor):
            return torch.cat(cast("tuple[Tensor, ...]", columns))
        return sum(cast("tuple[tuple[object, ...], ...]", columns), ())

    return parts[0].map(joined, *parts[1:])


def changed(change: Callable[..., object], columns: Sequence[object]) -> object:
    """Apply a function to the same column of several records."""
    first = columns[0]
    if first is None:
        return None
    if isinstance(first, Rows):
        return first.map(change, *cast("Sequence[Rows]", columns[1:]))
    if isinstance(first, dict):
        dicts = cast("Sequence[dict[object, object]]", columns)
        return {name: change(*(column[name] for column in dicts)) for name in dicts[0]}
    return change(*columns)
