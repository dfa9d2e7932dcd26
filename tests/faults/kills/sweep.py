"""kill -9 at every system call of two saves that changes files.

Rotation is included. Run by hand; it takes minutes.

    python -m tests.faults.kills.sweep [FIRST [LAST]]

Each time a new run is killed there, a write after half of its bytes, and the same command is then run to its end. FIRST
and LAST choose some of the calls. Prints one line per call and exits with 1 unless every run continued and ended the
same bit for bit. Needs Linux and gcc.
"""

import collections
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tests.conftest  # noqa: F401  (sets the environment of the runs)
from tests.faults.kills.injection import wait_for_tracer
from tests.support.runs import TINY, Options, differing, final_state, losses, run, start
from tests.tiny.sd import save_pictures, save_pipeline

NEVER = 1_000_000


def main(first: int = 1, last: int = NEVER) -> int:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        tracer = place / "tracer"
        subprocess.run(["gcc", "-O2", "-o", tracer, Path(__file__).parents[0] / "tracer.c"], check=True)
        options: Options = TINY | {
            "model.source": save_pipeline(place / "model", size="micro"),
            "data.folder": save_pictures(place / "pictures", count=14, size=64, aspects=(1.0, 1.6, 0.6)),
            "cache.folder": place / "cache",
            "lora.targets": ("to_q", "to_v"),
            "train.batch_size": 1,
            "train.steps": 4,
            "checkpoint.every": 1,
            "checkpoint.keep": 1,
        }
        straight = place / "straight"
        calls = traced(options | {"output.folder": straight}, straight, NEVER, tracer, place / "log")
        saves = [number for number, call in enumerate(calls) if " mkdir " in call and ".tmp-step_" in call]
        calls = calls[: saves[2]]  # what comes before the third save
        print(f"{len(calls)} calls change a file in two saves", flush=True)
        results: collections.Counter[str] = collections.Counter()
        for number, call in list(enumerate(calls, 1))[first - 1 : last]:
            out = place / "out"
            shutil.rmtree(out, ignore_errors=True)
            killed = traced(options | {"output.folder": out}, out, number, tracer, place / "log")
            assert len(killed) == number, killed
            ended = run("lora", options | {"output.folder": out}, place / "log")
            result = "exact"
            if ended.exit_code != 0:
                result = f"bricked: {ended.output.strip().splitlines()[-1]}"
            elif differing(final_state(straight), final_state(out)) or losses(straight) != losses(out):
                result = "wrong"
            elif [path.name for path in (out / "checkpoints").iterdir()] != ["step_000004"]:
                result = "leaves litter"
            results[result] += 1
            print(f"{call}: {result}", flush=True)
        print(dict(results))
        return int(set(results) != {"exact"})


def traced(options: Options, out: Path, number: int, tracer: Path, log: Path) -> list[str]:
    """Kill the recipe at its `number`-th change to a file under `out`. Return these changes."""
    running = start("lora", options, log, prepare=wait_for_tracer)
    while running.process.pid is None:
        time.sleep(0.01)
    command = [tracer, str(running.process.pid), str(out), str(number)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=300)
    ended = running.wait()
    assert output.returncode in (0, 3), output.stderr
    assert ended.exit_code == (-signal.SIGKILL if output.returncode == 0 else 0), ended.output
    return output.stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
