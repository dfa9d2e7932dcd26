"""Records of a real run, its drawings and its scores."""

import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.support.drawn_folders import add_previews
from tests.support.launch import ROOT, succeeded
from tests.support.runs import PREVIEWS, Options, completed

DRAWN = ["--num_inference_steps", "1", "--width", "32", "--height", "32"]
SCORED = ["--draw.size", "32", "--draw.num_inference_steps", "1", "--grid.num_prompts", "2", "--grid.num_seeds", "2"]


def finetune(*words: object) -> str:
    return succeeded(["-m", "finetune.cli", *map(str, words)])


def test_a_run_its_drawings_and_its_scores_are_found_again(tiny_run: Options, tmp_path: Path) -> None:
    run, runs = tmp_path / "runs" / "ink", tmp_path / "runs"
    options = tiny_run | PREVIEWS | {"train.steps": 2, "preview.every": 2, "output.folder": run}
    assert f"finetune records {runs} searches" in completed("lora", options, tmp_path / "log").output
    finetune(
        *("generate", "--model.source", options["model.source"], "--lora", f"{run}:0.5", "--prompts", "a blue square"),
        *("--output", runs / "drawn", *DRAWN),
    )
    finetune("evaluate", run, "--output", runs / "scored", *SCORED)
    said = finetune("records", runs, "--search", "blue square")
    num_scored = len(list((runs / "scored" / "images").rglob("*.png")))
    assert num_scored >= 16 and f"Records: {1 + num_scored} added." in said  # the run added its previews
    assert "1 image found." in said and "drawn/" in said
    with sqlite3.connect(runs / "records.sqlite") as records:
        preview = "SELECT prompt, seed, num_inference_steps, base_model, width FROM images WHERE kind = ? AND step = 2"
        expected = ("a red circle", 0, 1, str(options["model.source"]), 64)
        assert records.execute(preview, ("preview",)).fetchall() == [expected]
        drawn = "SELECT strength, num_inference_steps, width, sampler IS NULL FROM images WHERE kind = ?"
        assert records.execute(drawn, ("generated",)).fetchall() == [(0.5, 1, 32, 0)]
        scored = (
            "SELECT DISTINCT num_inference_steps, base_model, strength FROM images WHERE kind = ? ORDER BY strength"
        )
        model = str(options["model.source"])
        assert records.execute(scored, ("scored",)).fetchall() == [(1, model, None), (1, model, 1.0)]
        own = "SELECT count(DISTINCT images.path) FROM images JOIN scores ON scores.path = images.path AND image >= 0"
        assert records.execute(own).fetchone()[0] > 0
    records.close()
    finetune("records", runs, "--filter", "scores.faults>=0", "--csv", tmp_path / "out.csv")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + num_scored // 2


ENDING_RUN = """
import sys, time
from pathlib import Path
from finetune.records.update import update_records
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / f"{name}.ready").touch()
while len(list(folder.glob("*.ready"))) < 4:
    time.sleep(0.001)
for number in range(5):
    preview = next((folder / name / "previews").glob("*.png"))
    preview.touch()  # its row changes each time
    update_records(folder, folder / name, lambda text: sys.exit(text))
"""


def test_processes_that_end_at_once_all_get_in(tmp_path: Path) -> None:
    names = [f"run{number}" for number in range(4)]
    for name in names:
        add_previews(tmp_path / name, 0, 10)
    words = [sys.executable, "-c", ENDING_RUN, str(tmp_path)]
    started = [subprocess.Popen([*words, name], cwd=ROOT, stderr=subprocess.PIPE, text=True) for name in names]
    assert [process.communicate(timeout=120)[1] for process in started] == [""] * 4
    assert [process.returncode for process in started] == [0] * 4
    with sqlite3.connect(tmp_path / "records.sqlite") as records:
        counts = records.execute("SELECT run, count(*) FROM images GROUP BY run").fetchall()
        assert counts == [(name, 4) for name in names]
        assert records.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        records.execute("INSERT INTO words(words) VALUES ('integrity-check')")  # fails where the index is out of step
    records.close()
