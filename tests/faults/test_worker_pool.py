import functools
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from datasets_prep.workers.pool import Failure, PoolEngine
from datasets_prep.workers.ray_cluster import RayEngine
from tests.support.launch import ROOT


def double(number: int) -> int:
    return 2 * number


def act(task: str) -> str:
    if task == "hang":
        time.sleep(60)
    if task == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "leave":
        sys.exit(3)
    if task == "hoard":
        bytearray(8 * 2**30)
    if task == "shout":
        os.write(2, b"libtiff: nonsense\n")
    return task.upper()


def act_once(task: str, mark: Path) -> str:
    if task == "unlucky" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task


class PanicError(BaseException):
    """As decoders written in Rust raise."""


ERRORS = (LookupError, struct.error, OverflowError, RecursionError, AssertionError, PanicError, KeyboardInterrupt)


def fail(task: str) -> str:
    for error in ERRORS:
        if error.__name__ == task:
            raise error("no such thing")
    return task


def with_a_dot(data: bytes) -> bytes:
    return data + b"."


def process_id(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def run(tasks: list[str], workers: int = 2, seconds: float = 30.0, memory_gb: float = 2.0) -> dict[str, str | Failure]:
    with PoolEngine(workers, seconds, memory_gb) as engine:
        results = list(engine.run(act, tasks))
    assert sorted(task for task, _ in results) == sorted(tasks)
    return dict(results)


def children() -> set[int]:
    """Return process numbers of descendants, except the fork server."""
    return {each.pid for server in psutil.Process().children() for each in server.children()}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_task_has_its_result_once(workers: int) -> None:
    with PoolEngine(workers, seconds=30, memory_gb=1) as engine:
        results = list(engine.run(double, range(300)))
    assert sorted(results) == [(number, 2 * number) for number in range(300)]


def test_no_tasks_give_no_results() -> None:
    assert run([]) == {}


def test_a_task_that_hangs_costs_only_itself() -> None:
    fine = [f"image {number}" for number in range(40)]
    results = run([*fine[:20], "hang", *fine[20:]], seconds=0.5)
    hung = results.pop("hang")
    assert isinstance(hung, Failure) and hung.kind == "timeout" and "0.5 seconds" in hung.detail
    assert results == {name: name.upper() for name in fine}


@pytest.mark.parametrize(("task", "detail"), [("segfault", "signal 11 (SIGSEGV)"), ("leave", "exit code 3")])
def test_a_task_that_ends_its_process_costs_only_itself(task: str, detail: str) -> None:
    fine = [f"image {number}" for number in range(40)]
    results = run([*fine[:20], task, *fine[20:]])
    assert results.pop(task) == Failure("worker_crashed", detail)
    assert results == {name: name.upper() for name in fine}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_a_task_that_wants_too_much_memory_costs_only_itself() -> None:
    results = run(["before", "hoard", "after"], workers=1)
    hoarded = results.pop("hoard")
    assert isinstance(hoarded, Failure) and hoarded.kind == "out_of_memory" and "2 GB" in hoarded.detail
    assert results == {"before": "BEFORE", "after": "AFTER"}


def test_a_task_whose_process_is_killed_from_outside_is_tried_again(tmp_path: Path) -> None:
    tasks = ["first", "unlucky", "last"]
    with PoolEngine(2, seconds=30, memory_gb=1) as engine:
        results = dict(engine.run(functools.partial(act_once, mark=tmp_path / "mark"), tasks))
    assert results == {name: name for name in tasks}


def test_an_error_of_the_work_costs_only_its_task_and_is_reported_with_its_place() -> None:
    fine = [f"image {number}" for number in range(20)]
    failing = [error.__name__ for error in ERRORS]
    with PoolEngine(2, seconds=30, memory_gb=1) as engine:
        results = dict(engine.run(fail, [*fine, *failing, "last"]))
    for name in failing:
        failure = results.pop(name)
        assert isinstance(failure, Failure) and failure.kind == "worker_crashed"
        assert failure.detail.startswith(f"{name}: no such thing (test_worker_pool.py, line ")
    assert results == {name: name for name in [*fine, "last"]}
    assert not children()


def test_tasks_are_taken_as_they_are_needed() -> None:
    taken = 0

    def count() -> Iterator[int]:
        nonlocal taken
        for number in itertools.count():
            taken = number
            yield number

    with PoolEngine(2, seconds=30, memory_gb=1) as engine:
        results = engine.run(double, count())
        for _ in range(50):
            next(results)
        assert taken < 50 + 2 * 10


def test_a_slow_caller_times_nothing_out() -> None:
    with PoolEngine(1, seconds=0.3, memory_gb=1) as engine:
        results = engine.run(double, range(20))
        next(results)
        time.sleep(1)
        assert sorted(number for _, number in results if isinstance(number, int)) == [2 * n for n in range(1, 20)]


def test_large_tasks_and_results_block_nothing() -> None:
    blobs = [bytes([number]) * 3_000_000 for number in range(12)]
    with PoolEngine(2, seconds=30, memory_gb=1) as engine:
        assert all(result == blob + b"." for blob, result in engine.run(with_a_dot, blobs))


def test_workers_end_with_the_run_and_with_an_abandoned_one() -> None:
    with PoolEngine(2, seconds=30, memory_gb=1) as engine:
        results = engine.run(process_id, range(8))
        next(results)
        assert len(children()) >= 2
    assert not children()


def test_what_decoders_print_stays_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["shout"]) == {"shout": "SHOUT"}
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes there are")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_command(ending: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from tests.faults.test_worker_pool import announce\n"
        "from datasets_prep.workers.pool import PoolEngine\n"
        "with PoolEngine(2, seconds=60, memory_gb=1) as engine:\n"  # not under `if __name__ == "__main__"`: none needed
        f"    list(engine.run(announce, [{str(tmp_path)!r}] * 2))\n"
    )
    options = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.PIPE, "start_new_session": True}
    command = subprocess.Popen([sys.executable, program], text=True, **options)
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    if ending == signal.SIGINT:
        os.killpg(command.pid, ending)  # as a terminal does
    else:
        command.kill()
    errors = command.communicate(timeout=20)[1]
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert errors.count("Traceback") == (1 if ending == signal.SIGINT else 0)


def announce(folder: str) -> None:
    Path(folder, f"{os.getpid()}.pid").touch()
    time.sleep(60)


def wait_until(condition, seconds: float = 20) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes there are")
def test_random_kills_lose_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # The engine gives up where no process starts; here several may be killed before they have.
    monkeypatch.setattr("datasets_prep.workers.pool.MOST_FAILED_STARTS", 1000)
    num_kills, chance = 0, random.Random(1)
    is_over = threading.Event()
    seen: dict[int, object] = {}

    def kill() -> None:
        nonlocal num_kills
        before = 0
        while not is_over.wait(chance.random() * 0.05):
            if len(seen) == before:  # on a busy machine a worker takes longer to start than kills follow each other
                continue
            before = len(seen)
            if workers := sorted(children()):
                try:
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    num_kills += 1
                except ProcessLookupError:
                    pass

    killer = threading.Thread(target=kill)
    with PoolEngine(3, seconds=30, memory_gb=1) as engine:
        results = engine.run(double, itertools.count())
        seen |= dict(itertools.islice(results, 100))
        killer.start()
        try:
            for task, result in results:
                assert task not in seen
                seen[task] = result
                if num_kills >= 40:
                    break
        finally:  # or it would kill the workers of every later test
            is_over.set()
            killer.join()
    lost = [task for task, result in seen.items() if isinstance(result, Failure)]
    assert len(lost) <= 5
    assert all(result == 2 * task for task, result in seen.items() if task not in lost)


def test_a_machine_without_ray_hears_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="pip install"):
        RayEngine(None, seconds=30, memory_gb=1).__enter__()
