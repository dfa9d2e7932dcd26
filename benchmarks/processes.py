"""The same training on 1, 2 and 4 processes.

    python benchmarks/processes.py [--steps 50] [--recipes full lora] [--rate 1e-3]

A tiny model trains on the CPU (gloo) with a global batch of four images of two shapes. Each way of dividing it is
compared with one process: the relative distance of all trained weights after the last step, and the largest relative
difference of a step's loss. "1, 2, 4, 1" starts on one process and is continued on the others; "to" stops half way and
changes from DDP to FSDP2 or back.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.jobs import FSDP, completed_job
from tests.support.runs import TINY, Options, distance, final_state, metrics, without_lora
from tests.tiny.sd import save_pictures, save_pipeline

Part = tuple[int, bool]
"""Number of processes, and whether they shard by FSDP2."""
GLOBAL_BATCH = 4
WAYS: dict[str, tuple[Part, ...]] = {
    "2 DDP": ((2, False),),
    "4 DDP": ((4, False),),
    "2 FSDP2": ((2, True),),
    "4 FSDP2": ((4, True),),
    "1, 2, 4, 1 DDP": ((1, False), (2, False), (4, False), (1, False)),
    "2 DDP to 4 FSDP2": ((2, False), (4, True)),
    "4 FSDP2 to 2 DDP": ((4, True), (2, False)),
}


def trained(recipe: str, options: Options, parts: Sequence[Part], steps: int, folder: Path) -> Path:
    """Train in equal parts; return the run folder."""
    for number, (num, is_sharded) in enumerate(parts, start=1):
        until = {"train.steps": steps * number // len(parts), "output.folder": folder / "out"}
        completed_job(recipe, options | until, folder, num=num, environment=FSDP if is_sharded else None)
    return folder / "out"


def loss_difference(folder: Path, other: Path) -> float:
    """Return the largest relative difference of a step's loss."""
    pairs = zip(metrics(folder), metrics(other), strict=True)
    return max(abs(one["loss"] - two["loss"]) / two["loss"] for one, two in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--recipes", nargs="+", choices=("full", "lora"), default=("full", "lora"))
    parser.add_argument("--rate", type=float, default=1e-3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        images = save_pictures(work / "images", count=10, size=64, aspects=(1.0, 1.6))
        options: Options = {"model.source": save_pipeline(work / "model", size="micro", seed=2), "data.folder": images}
        options |= {"cache.folder": work / "cache", "optim.lr": chosen.rate, "optim.warmup_steps": 0}
        options = TINY | options | {"train.batch_size": GLOBAL_BATCH, "checkpoint.every": chosen.steps}
        print(
            f"{chosen.steps} steps, rate {chosen.rate}\n{'recipe':8s} {'processes':20s} weights    losses", flush=True
        )
        for recipe in chosen.recipes:
            own = options if recipe == "lora" else without_lora(options)
            folder = work / recipe
            folder.mkdir()
            alone = trained(recipe, own, ((1, False),), chosen.steps, folder / "alone")
            for way, parts in WAYS.items():
                run = trained(recipe, own, parts, chosen.steps, folder / way.replace(" ", "-"))
                far, loss = distance(final_state(run), final_state(alone)), loss_difference(run, alone)
                print(f"{recipe:8s} {way:20s} {far:.1e}    {loss:.1e}", flush=True)


if __name__ == "__main__":
    main()
