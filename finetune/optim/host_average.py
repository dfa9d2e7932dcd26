"""An average in host memory. It is updated while an accelerator computes the next step."""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class HostAverage:
    """Float32 averages on the CPU, moved towards weights in a thread. The weights are copied in the accelerator's own
    order of work, so only the next optimizer step waits for the copy."""

    def __init__(self, average: dict[str, Tensor]) -> None:
        self._average = average
        self._staged: dict[str, Tensor] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="average")
        self._pending: Future[None] | None = None

    @torch.no_grad()
    def follow(self, weights: dict[str, Tensor], amount: float) -> None:
        """Start to move every average by the share `amount` towards its weight."""
        self.wait()
        if not self._staged:
            self._staged = {
                name: torch.empty_like(weight, device="cpu", pin_memory=weight.is_cuda)
                for name, weight in weights.items()
            }
        for name, weight in weights.items():
            self._staged[name].copy_(weight, non_blocking=True)
        copied = None
        if any(weight.is_cuda for weight in weights.values()):
            copied = torch.cuda.Event()
            copied.record()
        self._pending = self._thread.submit(self._move, amount, copied)

    def wait(self) -> None:
        """Wait until the averages are complete. Errors of the thread are raised."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    @torch.no_grad()
    def _move(self, amount: float, copied: torch.cuda.Event | None) -> None:
        if copied is not None:
            copied.synchronize()
        for name, average in self._average.items():
            average.lerp_(self._staged[name].float(), amount)
