"""Files that publishing removes from an output folder."""

from pathlib import Path

from datasets_prep.output.publish import tidy
from finetune.files import aside


def test_a_report_half_written_at_a_kill_is_removed_and_files_of_others_stay(tmp_path: Path) -> None:
    left = [aside(tmp_path / "report.html"), tmp_path / ".tmp-report.html-4711"]
    others = [tmp_path / name for name in (".tmp-notes-vm-12-0a1b2c3d", "tmp-report.html-vm-x", "report.html")]
    for path in (*left, *others):
        path.write_text("half")
    tidy(tmp_path, {})
    assert sorted(tmp_path.iterdir()) == sorted(others)
