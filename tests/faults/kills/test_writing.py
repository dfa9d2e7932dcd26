import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets_prep.config import PrepConfig, SplitConfig, WriteConfig
from datasets_prep.pipeline import prepare
from finetune.data.manifest import read_manifest
from tests.support.images import drawn, encoded, write
from tests.unit.datasets_prep.test_pipeline import contents

KILLED = 77
CHANGES = [("folder", "other captions"), ("folder", "shards"), ("shards", "folder"), ("with texts", "folder")]
STRIDE = 5
"""Every fifth point is tried; with 1 all are, in five times the time."""


def armed(point: int) -> None:
    left = [point]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os._exit(KILLED)
            return function(*arguments, **options)

        return call

    for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync"):
        setattr(os, name, counted(vars(os)[name]))
    Path.write_bytes = counted(Path.write_bytes)


def ended_at(point: int, config: PrepConfig) -> bool:
    """Run a preparation that ends at a point; return whether it did. It runs in a copy of this process."""
    child = os.fork()
    if child == 0:
        armed(point)
        try:
            prepare(config)
        except BaseException:  # noqa: BLE001  nothing may reach the tests of the other process
            os._exit(3)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), code
    return code == KILLED


def readable(folder: Path) -> bool:
    try:
        return len(read_manifest(str(folder)).records) == 6
    except ValueError as error:
        return "was not finished" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_any_point(tmp_path: Path, before: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets_prep.output.shards.ROW_GROUP", 2)
    monkeypatch.setattr("datasets_prep.output.images.NUM_THREADS", 1)
    monkeypatch.setattr("datasets_prep.output.shards.NUM_THREADS", 1)
    files = {f"d{seed % 2}/{seed}_red_circle.png": encoded(drawn(seed, (64 + 8 * (seed % 3), 80))) for seed in range(6)}
    source = write(tmp_path / "raw", files)
    folder = PrepConfig((source,), tmp_path / "out", workers=1, split=SplitConfig(0.3, "picture"))
    configs = {
        "folder": folder,
        "other captions": replace(folder, trigger="ink"),
        "shards": replace(folder, write=WriteConfig("parquet", shard_mb=0.01)),
        "with texts": replace(folder, write=WriteConfig(txt=True)),
    }
    wanted = {}
    for name in (before, after):
        prepare(replace(configs[name], output=tmp_path / name))
        wanted[name] = contents(tmp_path / name)
    point = 1
    while True:
        shutil.rmtree(folder.output, ignore_errors=True)
        shutil.copytree(tmp_path / before, folder.output)
        if not ended_at(point, replace(configs[after], output=folder.output)):
            break
        assert readable(folder.output), point
        prepare(replace(configs[after], output=folder.output))
        assert contents(folder.output) == wanted[after], point
        assert sorted(os.listdir(folder.output / ".prep")) == sorted(os.listdir(tmp_path / after / ".prep")), point
        point += STRIDE
    assert point > 20  # there are some
