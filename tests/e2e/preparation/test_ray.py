import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datasets_prep.workers.pool import Engine, Failure, PoolEngine
from datasets_prep.workers.ray_cluster import RayEngine
from tests.faults.test_worker_pool import act, fail

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytest.importorskip("ray", reason="Ray is not installed: pip install 'sd-finetune[ray]'")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Cluster"]:
    """A cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        patch.setenv("PYTHONPATH", str(ROOT))  # as if the package were installed on the nodes
        two = Cluster()
        try:
            for _ in range(2):
                two.add_node(num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False)
            yield two
        finally:
            two.shutdown()


@pytest.fixture
def engine(cluster: "Cluster") -> Iterator[RayEngine]:
    with RayEngine(cluster.address, seconds=2, memory_gb=2) as connected:
        yield connected


def results(engine: Engine, tasks: list[str]) -> dict[str, str | Failure]:
    found = list(engine.run(act, tasks))
    assert sorted(task for task, _ in found) == sorted(tasks)
    return dict(found)


@pytest.mark.slow
def test_two_nodes_give_what_the_pool_gives(engine: RayEngine) -> None:
    tasks = [f"image {number}" for number in range(400)]
    tasks[100:100] = ["segfault", "hang", "hoard", "leave"]
    with PoolEngine(2, seconds=2, memory_gb=2) as pool:
        assert results(engine, tasks) == results(pool, tasks)


@pytest.mark.slow
def test_both_nodes_work(engine: RayEngine) -> None:
    nodes = {node for _, node in engine.run(node_of, range(600))}
    assert len(nodes) == 2


def node_of(_: int) -> int:
    """Return the process number of the node that this runs on."""
    process = os.getpid()
    while Path(f"/proc/{process}/comm").read_text().strip() != "raylet":
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return process


@pytest.mark.slow
def test_an_error_of_the_work_costs_its_task(engine: RayEngine) -> None:
    ((_, failure),) = engine.run(fail, ["LookupError"])
    assert isinstance(failure, Failure) and failure.detail.startswith("LookupError: no such thing")


@pytest.mark.slow
def test_what_a_lost_node_had_to_do_is_done_by_another(cluster: "Cluster") -> None:
    third = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    seen = {}
    with RayEngine(cluster.address, seconds=30, memory_gb=2) as engine:
        for task, result in engine.run(slow_node_of, range(600)):
            assert task not in seen
            seen[task] = result
            if len(seen) == 100:
                cluster.remove_node(third, allow_graceful=False)
    assert sorted(seen) == list(range(600)) and not any(isinstance(result, Failure) for result in seen.values())


def slow_node_of(task: int) -> int:
    time.sleep(0.02)
    return node_of(task)
