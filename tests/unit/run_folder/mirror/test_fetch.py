from dataclasses import replace
from pathlib import Path

import pytest

from finetune.run_folder.mirror.claim import MirrorTakenError
from finetune.run_folder.mirror.contents import CLAIM, FILES
from finetune.run_folder.mirror.fetch import fetch_newest
from tests.support.mirrors import FailsAfter, Mirrored, saved_run


def test_an_empty_folder_gets_the_newest_checkpoint_and_all_other_files(run: Mirrored) -> None:
    run.started().upload()
    other = run.elsewhere()
    other.fetch()
    older = {name for name in run.contents() if "checkpoints/step_000002" in name}
    assert other.contents() == {name: data for name, data in run.contents().items() if name not in older}
    assert older and not list(other.folder.glob(".tmp-*"))


def test_a_new_run_and_its_restart_need_nothing_from_the_mirror(tmp_path: Path, run: Mirrored) -> None:
    new = run.elsewhere("new")
    new.fetch()
    new.fetch()
    assert new.contents() == {}
    new.save(1)
    new.started().upload()
    assert new.steps_there() == [1]


def test_the_side_with_more_steps_wins(run: Mirrored, capsys: pytest.CaptureFixture[str]) -> None:
    run.started().upload()
    ahead = run.elsewhere()
    upload = ahead.started()
    ahead.save(6)
    before = ahead.contents()
    ahead.fetch()
    assert "is at step 6" in capsys.readouterr().out and ahead.contents() == before
    upload.upload()
    run.fetch()
    assert "is at step 4" in capsys.readouterr().out
    assert run.contents().items() >= before.items()


@pytest.mark.parametrize("name", ["optimizer.pt", "manifest.json"])
@pytest.mark.parametrize("is_missing", [True, False])
def test_a_checkpoint_that_is_not_whole_is_passed_over(
    name: str, is_missing: bool, run: Mirrored, capsys: pytest.CaptureFixture[str]
) -> None:
    run.started().upload()
    place = f"checkpoints/step_000004/{name}"
    if is_missing:
        run.storage.remove(place)
    else:
        run.storage.write(place, b"torn")
    other = run.elsewhere()
    other.fetch()
    assert [path.name for path in (other.folder / "checkpoints").iterdir()] == ["step_000002"]
    is_said = not (is_missing and name == "manifest.json")  # then it is as if it were not there
    assert ("falling back" in capsys.readouterr().out) is is_said


def test_a_mirror_without_an_intact_checkpoint_is_refused(run: Mirrored) -> None:
    run.started().upload()
    for step in (2, 4):
        run.storage.write(f"checkpoints/step_{step:06d}/optimizer.pt", b"torn")
    with pytest.raises(ValueError, match=r"no intact checkpoint in memory://(.|\n)*000002/optimizer.pt is damaged"):
        run.elsewhere().fetch()


def test_a_folder_and_a_mirror_of_different_runs_are_refused_with_both_names(run: Mirrored, tmp_path: Path) -> None:
    run.started().upload()
    for name in ("unmarked", "marked"):
        other = saved_run(tmp_path / name, run.url if name == "unmarked" else "memory://bucket/other", 8)
        if name == "marked":
            other.started().upload()
        before = other.contents()
        with pytest.raises(ValueError, match=f"{run.url} holds another run than .*{name}"):
            Mirrored(other.folder, run.url).fetch()
        assert other.contents() == before


def test_storage_with_files_of_others_is_refused(run: Mirrored) -> None:
    run.storage.write("holiday.png", b"mine")
    with pytest.raises(ValueError, match="1 file that no run put there"):
        run.fetch()


def test_never_resuming_refuses_a_mirror_with_a_run(run: Mirrored) -> None:
    run.started().upload()
    with pytest.raises(ValueError, match=r"resume: got never, but memory://"):
        fetch_newest(replace(run.elsewhere().config, resume="never"))


def test_a_download_that_was_killed_is_made_again(run: Mirrored) -> None:
    run.started().upload()
    other = run.elsewhere()
    other.fetch()
    whole = other.contents()
    (other.folder / CLAIM).write_text((other.folder / CLAIM).read_text().replace("true", "false"))
    (other.folder / "metrics.jsonl").write_text("torn")
    (other.folder / "previews" / "step_000004.png").unlink()
    (other.folder / ".tmp-fetched-1").mkdir()
    other.fetch()
    assert other.contents() == whole


def test_names_that_lead_out_of_the_folder_are_refused(run: Mirrored) -> None:
    run.started().upload()
    run.storage.write(FILES, b'{"../stolen": {"size": 1, "sha256": "0"}}')
    with pytest.raises(ValueError, match="is not what a run writes"):
        run.elsewhere().fetch()


def test_an_upload_that_ends_at_any_change_leaves_a_whole_run_and_is_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The storage is gone after each number of changes in turn."""
    ends = 0
    for number in range(100):
        saved = saved_run(tmp_path / f"run{number}", f"memory://bucket/runs/{number}", 2, 4)
        saved.started().upload()
        storage = FailsAfter(saved.url, waits=(), left=[number])
        upload = saved.started(storage)
        saved.save(6)
        saved.rotate()
        (saved.folder / "previews" / "step_000002.png").unlink()
        (saved.folder / "previews" / "step_000004.png").write_bytes(b"drawn again")
        try:
            upload.upload()
        except OSError:
            ends += 1
        other = saved.elsewhere(f"other{number}")
        other.fetch()
        step = 6 if (other.folder / "checkpoints" / "step_000006").is_dir() else 4
        assert (step == 6) or storage.left[0] < 0
        rows = (other.folder / "metrics.jsonl").read_text().splitlines()
        assert len(rows) >= step // 2
        assert (other.folder / "config.yaml").exists()
        for name, data in other.contents().items():
            if f"step_{step:06d}" in name and name.startswith("checkpoints"):
                assert data.endswith(f"of step {step}".encode()) or name.endswith("manifest.json")
        storage.left[0] = 1000
        saved.started(storage).upload()
        assert saved.steps_there() == [4, 6]
        last = saved.elsewhere(f"last{number}")
        last.fetch()
        assert last.contents().items() <= saved.contents().items()
        if ends <= number:
            break
    assert ends > 12 and "warning" not in capsys.readouterr().out


def test_a_later_start_takes_the_mirror(run: Mirrored) -> None:
    upload = run.started()
    upload.upload()
    other = run.elsewhere()
    later = other.started()
    run.save(6)
    with pytest.raises(MirrorTakenError, match="another start of the run since"):
        upload.upload()
    assert run.steps_there() == [2, 4]
    other.save(8)
    later.upload()
    assert run.steps_there() == [2, 4, 8][-2:]
