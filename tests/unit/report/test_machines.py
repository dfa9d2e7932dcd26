import json
from pathlib import Path
from typing import Any

from finetune.report.machines import FILE, hardware, read_starts, software, this_machine
from finetune.report.run import write_report
from tests.support.scored_run import scored_run


def machine(*devices: str, processors: int = 16) -> dict[str, Any]:
    return {"processors": processors, "kind": "x86_64", "memory_gb": 128, "devices": list(devices)}


def start(step: int, *machines: dict[str, Any], torch: str = "2.12") -> dict[str, Any]:
    return {"time": "2026-01-01T00:00:00Z", "step": step, "machines": list(machines), "versions": {"torch": torch}}


def write(folder: Path, *starts: dict[str, Any]) -> Path:
    (folder / FILE).write_text(json.dumps({"starts": starts}))
    return folder


def test_the_page_names_the_machine_that_trained_and_not_the_one_that_writes_it(tmp_path: Path) -> None:
    folder = write(scored_run(tmp_path / "run"), start(0, machine("A GPU", processors=977), torch="1.2.3-then"))
    text = write_report(folder).read_text()
    assert "A GPU, 977 processors (x86_64), 128 GiB of memory" in text and "1.2.3-then" in text
    own = this_machine([])
    assert f"{own['processors']} processors" not in text and f"{own['memory_gb']} GiB" not in text


def test_several_machines_are_listed_with_the_steps_that_they_began_at(tmp_path: Path) -> None:
    one, other = machine("A GPU", "A GPU"), machine("B GPU")
    starts = read_starts(write(tmp_path, start(0, one, one), start(50, one, one), start(120, other, torch="2.13")), 200)
    two = "2 × 2 × A GPU, 16 processors (x86_64), 128 GiB of memory"
    found = [("from step 0", two), ("from step 120", "B GPU, 16 processors (x86_64), 128 GiB of memory")]
    assert hardware(starts) == found
    assert software(starts) == [("torch", "2.12, then 2.13")]


def test_starts_whose_steps_are_gone_or_that_made_none_are_omitted(tmp_path: Path) -> None:
    lost, kept, export = machine("lost"), machine("kept"), machine("export")
    write(tmp_path, start(0, lost), start(0, kept), start(200, export))
    assert [each.machines[0].split(",")[0] for each in read_starts(tmp_path, 200)] == ["kept"]
    write(tmp_path, start(200, export))  # of a run whose first starts were not recorded
    assert [each.step for each in read_starts(tmp_path, 200)] == [200]


def test_a_run_of_before_and_a_damaged_file_give_a_page(tmp_path: Path) -> None:
    assert hardware(read_starts(tmp_path, 10)) == [("hardware", "not recorded")]
    broken = [{}, {"step": "x", "machines": [{"devices": 3, "processors": "y"}, 7], "versions": []}]
    for text in ("{torn", "[]", json.dumps({"starts": broken}), json.dumps({"starts": 3})):
        (tmp_path / FILE).write_text(text)
        assert hardware(read_starts(tmp_path, 10)) == [("hardware", "not recorded")]
    assert "not recorded" in write_report(scored_run(tmp_path / "run")).read_text()
