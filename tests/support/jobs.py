"""Jobs of several processes, started as a launcher does, without its seconds."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.runs import Ended, Environment, Options, Running, start

FSDP: Environment = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
"""What accelerate_configs/fsdp2.yaml sets."""


def start_job(
    recipe: str,
    options: Options,
    folder: Path,
    *,
    num: int = 2,
    environment: Environment = None,
    others: Options | None = None,
    prepare: Sequence[Callable[[], None] | None] = (),
) -> list[Running]:
    """Start `recipes.RECIPE` on `num` processes, whose logs are in `folder`. The `others` than the first may have other
    options."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    shared |= {"ACCELERATE_USE_CPU": "true", **(environment or {})}
    folder.mkdir(exist_ok=True)
    return [
        start(
            recipe,
            options | ((others or {}) if rank else {}),
            folder / f"log{rank}",
            environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            prepare=prepare[rank] if prepare else None,
        )
        for rank in range(num)
    ]


def ends(running: list[Running], seconds: float = 180) -> list[Ended]:
    return [process.wait(seconds) for process in running]


def completed_job(recipe: str, options: Options, folder: Path, *, num: int = 2, environment: Environment = None) -> str:
    """Run a job to a good end. The global batch of `options` is split over the processes.
    Returns what the first process printed."""
    batch = {"train.batch_size": int(str(options["train.batch_size"])) // num}
    found = ends(start_job(recipe, options | batch, folder, num=num, environment=environment))
    assert [ended.exit_code for ended in found] == [0] * num, "\n".join(ended.output for ended in found)
    return found[0].output
