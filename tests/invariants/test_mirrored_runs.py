import contextlib
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune.run_folder.mirror import uploads
from tests.support.jobs import FSDP, completed_job
from tests.support.remote import BUCKET, Bucket, bucket
from tests.support.runs import Options, assert_same_end, completed, metrics, refused, start

STEPS = 12


@pytest.fixture(scope="module")
def storage() -> Iterator[Bucket]:
    with bucket() as found:
        yield found


@pytest.fixture
def short_run(tiny_run: Options) -> Options:
    return tiny_run | {"train.steps": STEPS, "checkpoint.every": 2, "validation.fraction": 0.2, "validation.every": 5}


@dataclass(frozen=True)
class Prefix:
    """A mirror in the bucket."""

    storage: Bucket
    name: str

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.name}"

    def names(self) -> list[str]:
        listed: dict[str, Any] = self.storage.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.name}/")
        return sorted(each["Key"].removeprefix(f"{self.name}/") for each in listed.get("Contents", []))

    def steps(self) -> list[int]:
        """List the whole checkpoints there."""
        names = [name.split("/") for name in self.names() if name.endswith("/manifest.json")]
        return sorted(int(parts[-2].removeprefix("step_")) for parts in names)

    def remove(self, name: str) -> None:
        self.storage.client.delete_object(Bucket=BUCKET, Key=f"{self.name}/{name}")

    def delete_bucket(self) -> None:
        """Delete the bucket of a stopped run.

        What it sent before may still arrive, and servers of one process share what other tests put there.
        """
        for _ in range(100):
            for each in self.storage.client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
                self.storage.client.delete_object(Bucket=BUCKET, Key=each["Key"])
            with contextlib.suppress(self.storage.client.exceptions.ClientError):  # not empty again
                self.storage.client.delete_bucket(Bucket=BUCKET)
                return
            time.sleep(0.05)
        raise AssertionError("the bucket was not empty within five seconds")


def test_a_run_whose_disk_is_lost_continues_from_its_mirror(
    storage: Bucket, short_run: Options, tmp_path: Path
) -> None:
    straight, broken, log, environment = tmp_path / "straight", tmp_path / "out", tmp_path / "log", storage.environment
    completed("lora", short_run | {"output.folder": straight}, log)

    mirror = Prefix(storage, "runs/ink")
    options = short_run | {"output.folder": broken, "output.mirror": mirror.url}
    running = start("lora", options, log, environment=environment)
    running.wait_until(lambda: len(metrics(broken)) >= 3)
    running.signal(signal.SIGTERM)
    ended = running.wait()
    assert ended.exit_code == 75 and "did not arrive" not in ended.output, ended.output
    local = sorted(int(path.name.removeprefix("step_")) for path in (broken / "checkpoints").iterdir())
    assert mirror.steps() == local

    shutil.rmtree(broken)
    running = start("lora", options, log, environment=environment)
    running.wait_until(lambda: mirror.steps()[-1] > local[-1])
    running.signal(signal.SIGKILL)
    assert running.wait().exit_code == -signal.SIGKILL

    shutil.rmtree(broken)
    left = mirror.steps()
    mirror.remove(f"checkpoints/step_{left[-1]:06d}/manifest.json")  # as if killed before it arrived
    ended = completed("lora", options, log, environment=environment)
    assert f"holds no checkpoint, {mirror.url} at {left[-2]}" in ended.output, ended.output
    assert_same_end(straight, broken)
    assert mirror.steps() == [STEPS - 2, STEPS]
    for name in ("run.json", "report.html", "config.yaml", "export/pytorch_lora_weights.safetensors"):
        assert name in mirror.names()

    shutil.rmtree(broken)
    ended = completed("lora", options, log, environment=environment)
    assert "is finished" in ended.output and (broken / "export").is_dir()


@dataclass(frozen=True)
class ShortPauses:
    """Try a failing upload again at once."""

    def __call__(self) -> None:
        uploads.WAITS = (0.05,)


def test_a_failing_upload_ends_a_run_that_is_whole_here_with_an_error(short_run: Options, tmp_path: Path) -> None:
    with bucket() as storage:  # of its own, as it is deleted
        mirror, out, log = Prefix(storage, "run"), tmp_path / "out", tmp_path / "log"
        environment = storage.environment
        options = short_run | {"output.folder": out, "output.mirror": mirror.url}
        refused(
            "lora", options | {"output.mirror": "s3://missing/run"}, log, "s3://missing/run", environment=environment
        )
        assert not (out / "data_card.json").exists()

        running = start("lora", options, log, environment=environment, prepare=ShortPauses())
        running.wait_until(lambda: bool(mirror.steps()))
        running.signal(signal.SIGSTOP)
        mirror.delete_bucket()
        running.signal(signal.SIGCONT)
        ended = running.wait()
        assert ended.exit_code == 1 and "Traceback" not in ended.output, ended.output
        assert "error: output.mirror: not everything arrived in" in ended.output, ended.output
        assert "Training continues" in ended.output and (out / "run.json").exists()

        storage.client.create_bucket(Bucket=BUCKET)
        ended = completed("lora", options, log, environment=environment)
        assert "is finished" in ended.output and f"the whole run is in {mirror.url}" in ended.output
        assert mirror.steps() == [STEPS - 2, STEPS]


@pytest.mark.slow
def test_sharded_checkpoints_are_mirrored_whole_and_fetched_once(
    storage: Bucket, short_run: Options, tmp_path: Path
) -> None:
    mirror, out = Prefix(storage, "runs/sharded"), tmp_path / "out"
    options = short_run | {"output.folder": out, "output.mirror": mirror.url, "train.steps": 4}
    completed_job("lora", options, tmp_path / "logs", environment={**(FSDP or {}), **storage.environment})
    assert "checkpoints/step_000004/optimizer-00002-of-00002.pt" in mirror.names()
    shutil.rmtree(out)
    completed_job("lora", options | {"train.steps": 6}, tmp_path / "logs", environment=storage.environment)
    said = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert said.count(f"{mirror.url} at 4; fetching it") == 1
    assert [row["step"] for row in metrics(out)] == [1, 2, 3, 4, 5, 6]
    assert mirror.steps() == [4, 6]
