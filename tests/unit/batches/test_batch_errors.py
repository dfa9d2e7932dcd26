import sys
from collections.abc import Iterator

import pytest
import torch
from torch._utils import ExceptionWrapper

from finetune.batches.batch import Batch, collate_by_name
from finetune.batches.batch_errors import naming_images, with_plain_errors
from finetune.data.manifest import Record

RECORDS = [Record(name, ("a",), 64, 64, "") for name in ("a.png", "b.png", "c.png")]


def sample(index: int, latents: torch.Tensor) -> Batch:
    rows = torch.ones(1), torch.tensor([[64, 64, 0, 0, 64, 64]]), latents[None]
    return Batch((index,), (index,), ("a",), ("",), *rows, None, None)


def test_a_batch_that_memory_cannot_hold_is_named() -> None:
    huge = torch.zeros(1, 1, 1).expand(4, 2**22, 2**22)  # no bytes of its own, and 2^48 in a batch of one
    with pytest.raises(ValueError, match=r"out of memory while 2 images were put together.*c\.png, a\.png.*batch_size"):
        collate_by_name(RECORDS, [sample(2, huge), sample(0, huge)])


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        collate_by_name(RECORDS, [sample(0, torch.zeros(4, 2, 2)), sample(1, torch.zeros(4, 2, 3))])


def failing(error: Exception) -> Iterator[int]:
    yield 1
    try:
        raise error
    except Exception:  # noqa: BLE001 (as torch's worker does)
        ExceptionWrapper(sys.exc_info(), "in DataLoader worker process 0").reraise()


def test_an_error_of_a_worker_has_no_traceback_in_its_text() -> None:
    with pytest.raises(ValueError, match=r"^a\.png: cut short\. Mend: it\.$"):
        list(with_plain_errors(failing(ValueError("a.png: cut short. Mend: it."))))
    with pytest.raises(RuntimeError, match="Traceback"):
        list(with_plain_errors(failing(RuntimeError("our own mistake"))))


def test_a_worker_that_the_system_killed_is_said() -> None:
    def killed() -> Iterator[int]:
        yield 1
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    with pytest.raises(ValueError, match=r"killed by signal.*memory.*num_workers"):
        list(with_plain_errors(killed()))


def test_a_single_image_is_named() -> None:
    with pytest.raises(ValueError, match=r"1 image was read: a\.png"), naming_images("read", lambda: ["a.png"]):
        raise MemoryError
