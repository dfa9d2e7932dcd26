import json
from pathlib import Path

import pytest

from finetune.run_folder.metrics import MetricsFile

LINES = [json.dumps({"step": step, "loss": 1 / step}).encode() + b"\n" for step in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("content", "left", "is_altered"),
    [
        (b"".join(LINES), 3, False),  # killed after step 5, resumed at 4
        (b"".join(LINES[:3]), 3, False),
        (b"".join(LINES[:2]), 2, True),
        (b"".join(LINES)[:-70], 2, True),  # cut in a line
        (b"", 0, True),
        (b"x" + b"".join(LINES), 3, True),
        (b"".join(LINES[1:]), 2, True),
        (LINES[0] + b"note\n" + b"".join(LINES[1:]), 4, True),
    ],
)
def test_the_lines_before_the_checkpoint_are_kept(content: bytes, left: int, is_altered: bool, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    warnings: list[str] = []
    MetricsFile(path, sum(map(len, LINES[:3])), 4, warnings.append).write({"step": 4})
    lines = path.read_bytes().splitlines(keepends=True)
    assert lines[:-1] == content.splitlines(keepends=True)[:left]
    assert json.loads(lines[-1]) == {"step": 4}
    assert len(warnings) == is_altered


def test_a_deleted_file_is_made_again_while_the_run_is_going(tmp_path: Path) -> None:
    path, warnings = tmp_path / "metrics.jsonl", list[str]()
    file = MetricsFile(path, 0, 0, warnings.append)
    file.write({"step": 1})
    path.unlink()
    file.write({"step": 2})
    file.write({"step": 3})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [2, 3]
    assert len(warnings) == 1
