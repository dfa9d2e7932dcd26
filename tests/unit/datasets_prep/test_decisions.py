import json
from pathlib import Path

import pytest

from datasets_prep.decisions import Decided, Decision, append_decision, checked, read_decisions
from finetune.data.listing import Findings

A, B = "a" * 64, "b" * 64


def decided(path: Path) -> dict[str, Decided]:
    return read_decisions(path, Findings())


def test_no_file_holds_no_decisions(tmp_path: Path) -> None:
    findings = Findings()
    assert read_decisions(tmp_path / "decisions.jsonl", findings) == {}
    assert findings.warnings == ()


def test_the_last_verdict_and_the_last_caption_count(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    append_decision(path, Decision(A, "a.png", "drop"))
    append_decision(path, Decision(A, "a.png", "caption", "one"))
    append_decision(path, Decision(A, "a.png", "keep"))
    append_decision(path, Decision(A, "a.png", "caption", "two"))
    append_decision(path, Decision(B, "b.png", "drop"))
    assert decided(path) == {A: Decided("a.png", "keep", "two"), B: Decided("b.png", "drop", None)}


def test_undo_takes_back_the_latest_decision_about_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    append_decision(path, Decision(A, "a.png", "keep"))
    append_decision(path, Decision(A, "a.png", "drop"))
    append_decision(path, Decision(B, "b.png", "drop"))
    append_decision(path, Decision(A, "a.png", "undo"))
    assert decided(path)[A].verdict == "keep"
    assert decided(path)[B].verdict == "drop"
    append_decision(path, Decision(A, "a.png", "undo"))
    append_decision(path, Decision(A, "a.png", "undo"))  # nothing is left to take back
    assert A not in decided(path)
    assert len(path.read_bytes().splitlines()) == 6


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b"null",
        b"\xff\xfe",
        b'{"sha256": "short", "action": "keep"}',
        b'{"sha256": "%s", "action": "burn"}' % A.encode(),
        b'{"sha256": "%s", "action": "caption"}' % A.encode(),
        b'{"sha256": "%s", "action": "caption", "text": 7}' % A.encode(),
        b'{"sha256": "%s", "action": "caption", "text": "\\u0000"}' % A.encode(),
        b'{"sha256": "%s", "action": "caption", "text": "\\ud800"}' % A.encode(),
        b'{"sha256": "%s", "action": "keep", "text": "x"}' % A.encode(),
        b'{"sha256": "%s", "action": ["keep"]}' % A.encode(),
        b"[" * 100_000,
        b"9" * 5000,
    ],
)
def test_a_broken_line_is_a_warning_and_the_others_count(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "decisions.jsonl"
    append_decision(path, Decision(B, "b.png", "drop"))
    with open(path, "ab") as file:
        file.write(line + b"\n\n")
    append_decision(path, Decision(B, "b.png", "keep"))
    findings = Findings()
    assert read_decisions(path, findings) == {B: Decided("b.png", "keep", None)}
    assert len(findings.warnings) == 1
    assert "line 2" in findings.warnings[0]


def test_a_torn_last_line_does_not_swallow_the_next_decision(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    append_decision(path, Decision(A, "a.png", "drop"))
    path.write_bytes(path.read_bytes() + b'{"sha256": "bbb')
    append_decision(path, Decision(B, "b.png", "keep"))
    assert set(decided(path)) == {A, B}


def test_names_and_captions_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    source, text = "odd\udcff\n\u202e.png", 'two\nlines, "quoted" – ünï\u2028 🎉'
    append_decision(path, Decision(A, source, "caption", text))
    assert decided(path) == {A: Decided(source, None, text)}
    assert path.read_bytes().count(b"\n") == 1
    assert "text" not in json.loads(json.dumps({})) and checked(json.loads(path.read_bytes())).text == text
