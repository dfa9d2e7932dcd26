import json
from pathlib import Path
from typing import Any

import pytest

from datasets_prep.decisions import Decided, Decision, append_decision, checked, read_decisions
from finetune.data.listing import Findings

A, B = "a" * 64, "b" * 64


def decided(path: Path) -> dict[str, Decided]:
    return read_decisions(path, Findings())


def appended(folder: Path, *actions: str) -> Path:
    """Append decisions such as "a drop" or "a caption one"."""
    for action in actions:
        fields: list[Any] = action.split()
        append_decision(folder / "decisions.jsonl", Decision(fields[0] * 64, f"{fields[0]}.png", *fields[1:]))
    return folder / "decisions.jsonl"


def test_no_file_holds_no_decisions(tmp_path: Path) -> None:
    findings = Findings()
    assert read_decisions(tmp_path / "decisions.jsonl", findings) == {}
    assert findings.warnings == ()


def test_the_last_verdict_and_the_last_caption_count(tmp_path: Path) -> None:
    path = appended(tmp_path, "a drop", "a caption one", "a keep", "a caption two", "b drop")
    assert decided(path) == {A: Decided("a.png", "keep", "two"), B: Decided("b.png", "drop", None)}


def test_undo_takes_back_the_latest_decision_about_the_same_image(tmp_path: Path) -> None:
    path = appended(tmp_path, "a keep", "a drop", "b drop", "a undo")
    assert decided(path)[A].verdict == "keep"
    assert decided(path)[B].verdict == "drop"
    appended(tmp_path, "a undo", "a undo")  # for the second, nothing is left to take back
    assert A not in decided(path)
    assert len(path.read_bytes().splitlines()) == 6


BROKEN = [b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b'{"sha256": "short", "action": "keep"}']
BROKEN += [json.dumps({"sha256": A, "action": action}).encode() for action in ("burn", "caption", ["keep"])]
BROKEN += [json.dumps({"sha256": A, "action": "caption", "text": text}).encode() for text in (7, "\0", "\ud800")]
BROKEN += [json.dumps({"sha256": A, "action": "keep", "text": "x"}).encode()]


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_is_a_warning_and_the_others_count(tmp_path: Path, line: bytes) -> None:
    path = appended(tmp_path, "b drop")
    with open(path, "ab") as file:
        file.write(line + b"\n\n")
    appended(tmp_path, "b keep")
    findings = Findings()
    assert read_decisions(path, findings) == {B: Decided("b.png", "keep", None)}
    assert len(findings.warnings) == 1
    assert "line 2" in findings.warnings[0]


def test_a_torn_last_line_does_not_swallow_the_next_decision(tmp_path: Path) -> None:
    path = appended(tmp_path, "a drop")
    path.write_bytes(path.read_bytes() + b'{"sha256": "bbb')
    appended(tmp_path, "b keep")
    assert set(decided(path)) == {A, B}


def test_names_and_captions_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    source, text = "odd\udcff\n\u202e.png", 'two\nlines, "quoted" – ünï\u2028 🎉'
    append_decision(path, Decision(A, source, "caption", text))
    assert decided(path) == {A: Decided(source, None, text)}
    assert path.read_bytes().count(b"\n") == 1
    assert checked(json.loads(path.read_bytes())).text == text
