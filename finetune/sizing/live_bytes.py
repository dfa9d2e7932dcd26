"""Bytes of the tensors that are alive while code runs."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Counts what operations allocate within the context, and when it is freed. Tensors that existed before do not
    count. On the meta device nothing is computed; the tensors have their sizes and lifetimes all the same, those that
    autograd keeps for the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, Callable[[], object]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        for value in tensors(args):
            self._see(value.untyped_storage(), is_new=False)  # of weights, whose views are nothing new
        found = func(*args, **(kwargs or {}))
        for value in tensors((found,)):
            self._see(value.untyped_storage(), is_new=True)
        return found

    def _see(self, storage: torch.UntypedStorage, *, is_new: bool) -> None:
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes() if is_new else 0

        def freed(_: object) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among values and in lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (inner for inner in value if isinstance(inner, Tensor))
