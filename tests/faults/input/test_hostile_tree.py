import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.input.hostile_tree import KEPT, Case, build
from tests.support.prepared import kept_and_left_out

ROOT = Path(__file__).parents[3]


def state_of(root: Path) -> dict[str, tuple[object, ...]]:
    """Record everything about a tree that must not change. Kinds, sizes, times, contents, and targets of links."""
    found = {}
    for folder, folders, names in os.walk(os.fsencode(root)):
        for name in [*folders, *names]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            found[os.fsdecode(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino, content)
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Case], dict[str, dict], dict[str, dict], str]:
    root = tmp_path_factory.mktemp("hostile")
    found = build(root / "raw")
    before = state_of(root / "raw")
    command = [sys.executable, "-m", "datasets_prep", "--source", "raw", "--output", "prepared", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert state_of(root / "raw") == before
    return found, *kept_and_left_out(root / "prepared"), ended.stdout


def test_there_are_many_cases_and_each_ends_as_expected(prepared) -> None:
    found, kept, left_out, _ = prepared
    assert len([case for case in found if case.fate not in ("caption", "nothing")]) >= 80
    wrong = {}
    for case in found:
        fate = KEPT if case.name in kept else left_out.get(case.name, {}).get("reason", "nothing")
        expected = "nothing" if case.fate == "caption" else case.fate
        if fate not in expected.split("|"):
            wrong[case.name] = (case.fate, fate, left_out.get(case.name, {}).get("detail"))
    assert wrong == {}


def test_every_file_is_in_one_list_once(prepared) -> None:
    found, kept, left_out, _ = prepared
    assert not set(kept) & set(left_out)
    listed = {case.name for case in found if case.fate not in ("caption", "nothing")}
    assert set(kept) | set(left_out) == listed
    assert all(row["detail"] for row in left_out.values())


def test_sizes_and_captions_are_those_that_a_reader_sees(prepared) -> None:
    found, kept, _, _ = prepared
    for case in found:
        if case.name in kept:
            row = kept[case.name]
            assert case.size in (None, (row["width"], row["height"])), case.name
            assert case.caption in (None, row["text"]), (case.name, row["text"][:80])


def test_what_a_user_should_know_is_said_with_counts(prepared) -> None:
    told = ("animations", "transparency", "colour profiles", "hidden files", "Windows-1252", "without an image", "NUL")
    assert [words for words in told if words not in prepared[3]] == []
