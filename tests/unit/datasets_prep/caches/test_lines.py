from pathlib import Path

import pytest

from datasets_prep.caches.lines import JsonLines
from finetune.data.listing import Findings


def reopened(path: Path) -> tuple[JsonLines, tuple[str, ...]]:
    findings = Findings()
    return JsonLines(path, findings), findings.warnings


def kept(path: Path, figures: dict[str, float]) -> None:
    lines, _ = reopened(path)
    for key, value in figures.items():
        lines.put(key, value)
    lines.close()


def test_figures_are_there_again_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "scores.jsonl"
    figures = {"a third": 1 / 3, "a\nline \ud83d and ü": -1e-17, "": 0.0, "endless": float("inf")}
    kept(path, figures)
    lines, warnings = reopened(path)
    assert {key: lines.get(key) for key in figures} == figures and warnings == ()
    assert lines.get("another") is None
    lines.close()


def test_the_later_of_two_figures_counts_at_once_and_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    lines, _ = reopened(path)
    lines.put("a", 1)
    lines.put("a", 2)
    assert lines.get("a") == 2
    lines.close()
    assert reopened(path)[0].get("a") == 2


@pytest.mark.parametrize("num_cut", range(1, 12))
def test_a_line_torn_anywhere_costs_only_itself(tmp_path: Path, num_cut: int) -> None:
    path = tmp_path / "scores.jsonl"
    kept(path, {"a": 1.5, "b": 2.25})  # the last line is ["b", 2.25] and its end, 12 bytes
    path.write_bytes(path.read_bytes()[:-num_cut])
    lines, warnings = reopened(path)
    is_whole = num_cut == 1
    assert lines.get("a") == 1.5 and lines.get("b") == (2.25 if is_whole else None)
    assert len(warnings) == (0 if is_whole else 1)
    lines.put("c", 3.5)
    lines.close()
    lines, warnings = reopened(path)
    assert (lines.get("a"), lines.get("c")) == (1.5, 3.5), "what comes behind a torn line begins a line of its own"
    assert len(warnings) == (0 if is_whole else 1)
    lines.close()


def test_lines_of_something_else_are_counted_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    garbage = [b"", b"\0" * 40, b"\xff\xfe", b'{"a": 1}', b'["a", "b"]', b'["a"]', b'["a", 1, 2]', b'["a", null]', b"7"]
    path.write_bytes(b'["a", 1]\n' + b"\n".join(garbage) + b'\n["b", 2]\n')
    lines, warnings = reopened(path)
    assert (lines.get("a"), lines.get("b")) == (1, 2)
    assert "lines of scores.jsonl that cannot be read; they are made again (9): line 2, line 3" in warnings[0]
    lines.close()
