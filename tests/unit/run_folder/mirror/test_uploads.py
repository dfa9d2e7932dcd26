import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from finetune.run_folder.mirror import uploads as module
from finetune.run_folder.mirror.storage import MirrorStorage
from finetune.run_folder.mirror.upload import Upload
from finetune.run_folder.mirror.uploads import Uploads
from tests.support.mirrors import FailsAfter, Mirrored


@dataclass(frozen=True)
class WaitsToWrite(MirrorStorage):
    """Storage whose first change takes until it is let go."""

    begun: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)

    def write(self, name: str, data: bytes) -> None:
        self.begun.set()
        assert self.may_end.wait(30)
        super().write(name, data)


def never() -> bool:
    return False


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_save_waits_for_the_upload_before_and_a_stopped_one_does_not(
    run: Mirrored, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = WaitsToWrite(run.url, waits=())
    uploads = Uploads(run.started(storage))
    uploads.request()
    assert storage.begun.wait(30)
    uploads.wait_for_room(lambda: True)
    assert uploads.finish(0.1) is not None
    waiting = in_thread(lambda: uploads.wait_for_room(never))
    time.sleep(0.3)
    assert waiting.is_alive() and run.steps_there() == []
    storage.may_end.set()
    waiting.join(30)
    assert uploads.finish(30) is None and run.steps_there() == [2, 4]
    said = capsys.readouterr().out
    assert said.count("saves wait for it") == 1 and f"step 4 is in {run.url}." in said


def test_failures_are_counted_and_the_next_request_tries_again(
    run: Mirrored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "WAITS", (0.01, 0.01))
    storage = FailsAfter(run.url, waits=(), left=[0])
    uploads = Uploads(run.started(storage))
    uploads.request()
    problem = uploads.finish(30)
    assert problem is not None and "the storage is gone); none is there. All of it is in" in problem
    said = capsys.readouterr().out
    assert said.count("the storage is gone") == 1 and "3 tries failed in a row" in said
    uploads.wait_for_room(never)
    storage.left[0] = 1000
    uploads.request()
    assert uploads.finish(30) is None and run.steps_there() == [2, 4]
    assert f"step 4 is in {run.url}, after 3 failed tries." in capsys.readouterr().out


def test_a_save_does_not_wait_for_tries_that_fail(run: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITS", (1000.0,))
    storage = FailsAfter(run.url, waits=(), left=[0])
    uploads = Uploads(run.started(storage))
    uploads.request()
    uploads.wait_for_room(never)
    assert uploads.is_busy
    run.save(6)
    storage.left[0] = 1000
    uploads.request()  # instead of the pause
    assert uploads.finish(30) is None and run.steps_there() == [2, 4, 6]


@dataclass(eq=False)
class Wrong(Upload):
    def upload(self) -> None:
        raise KeyError("a mistake of ours")


def test_a_mistake_of_ours_ends_the_run(run: Mirrored) -> None:
    right = run.started()
    uploads = Uploads(Wrong(right.folder, right.storage, right.claim, right.keep))
    uploads.request()
    with pytest.raises(KeyError, match="a mistake of ours"):
        uploads.finish(30)


def test_a_run_without_a_mirror_uploads_nothing(run: Mirrored, tmp_path: Path) -> None:
    config = replace(run.config, output=replace(run.config.output, mirror=None))
    module.begin_uploads(config)
    module.request_upload()
    module.wait_for_room(never)
    module.upload_stopped()
    module.upload_after_failure()
    module.finish_uploads(config)
    assert run.storage.sizes() == {}
