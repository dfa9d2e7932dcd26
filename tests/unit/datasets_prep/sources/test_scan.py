import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from datasets_prep.sources.scan import walk
from finetune.data.listing import Findings
from tests.support.images import write


def walked(folder: Path) -> tuple[list[str], Mapping[str, str], Findings]:
    findings = Findings()
    items, rejected = walk(str(folder), (), findings)
    return [item.source for item in items], {result.source: result.reason for result in rejected}, findings


def test_walking_ends_and_gives_every_file_once(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(["b.png", "a/c.png", "a/x y\n'.png", "a.png"], "x") | {".hidden/d.png": "x"})
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "0link").symlink_to(tmp_path / "a")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / os.fsdecode(b"\xe9.png")).write_bytes(b"x")
    sources, rejected, findings = walked(tmp_path)
    assert sources == ["a.png", "a/c.png", "a/x y\n'.png", "b.png"]
    others = dict.fromkeys(("0link", "a/back", "pipe.jpg"), "not_a_file")
    assert rejected == others | dict.fromkeys(("gone", "self", "\udce9.png"), "unreadable")
    assert "hidden" in findings.warnings[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_listed_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, {"closed/a.png": "x", "b.png": "x"})
    (tmp_path / "closed").chmod(0)
    sources, rejected, _ = walked(tmp_path)
    (tmp_path / "closed").chmod(0o700)
    assert sources == ["b.png"] and rejected == {"closed": "unreadable"}
