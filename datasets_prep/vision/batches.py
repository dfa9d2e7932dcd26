"""Batches of images for a model, as large as memory allows. The next batch is opened meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from datasets_prep.vision.memory import is_out_of_memory, release_memory

Item = TypeVar("Item")
Output = TypeVar("Output")


def in_batches(
    load: Callable[[int], Item],
    compute: Callable[[Sequence[Item]], Sequence[Output]],
    indices: Sequence[int],
    batch_size: int,
    option: str,
) -> Iterator[tuple[int, Output]]:
    """Yield every index with the result of `compute`, in order. Batches are always full, the last one padded with its
    last item: the last digits of a model's results depend on the batch size, and an image's result must not depend on
    how many others are left. `option` is named in the error where memory does not suffice."""
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    size = batch_size
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(_load_all, load, batch) for batch in batches[:1]]
        for number, batch in enumerate(batches):
            items = waiting.pop().result()
            waiting.extend(pool.submit(_load_all, load, following) for following in batches[number + 1 : number + 2])
            start = 0
            while start < len(items):
                part = items[start : start + size]
                outputs = _attempt(compute, [*part, *part[-1:] * (size - len(part))])
                if outputs is not None:
                    yield from zip(batch[start : start + size], outputs, strict=False)
                    start += size
                elif size > 1:
                    size //= 2
                else:
                    raise ValueError(
                        f"{option}: the memory does not suffice for even one image at a time. Name a smaller model."
                    )


def _load_all(load: Callable[[int], Item], indices: Sequence[int]) -> list[Item]:
    return [load(index) for index in indices]


def _attempt(compute: Callable[[Sequence[Item]], Sequence[Output]], items: Sequence[Item]) -> Sequence[Output] | None:
    """Compute a batch; None where memory does not suffice."""
    try:
        return compute(items)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()  # not before the error is gone, which holds the tensors of the attempt
    return None
