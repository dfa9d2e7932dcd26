"""`finetune compare`: a page and a short table of several runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.compare.judge import judged, likeness_of
from finetune.compare.page import GENERATOR, Summary, notes, summary, write_comparison
from finetune.compare.runs import read_runs
from finetune.rate.shown import checkpoints_of, votes_about
from finetune.rate.votes import FILE


def compare(
    folders: Sequence[Path], output: Path, scores: Sequence[Path] = (), say: Callable[[str], None] = print
) -> Path:
    """Write the page of several runs, and say what is in it. Returns the page's path."""
    refuse_output(output, folders)
    runs = read_runs(folders, scores)
    name = likeness_of(runs)
    for line in table([summary(each, place, name) for place, each in enumerate(judged(runs))], name):
        say(line)
    for note in notes(runs):
        say(f"note: {note}")
    output.parent.mkdir(parents=True, exist_ok=True)
    checkpoints = [each for run in runs for each in checkpoints_of(run.scored, run.name)]
    results = votes_about(checkpoints, [folder / FILE for folder in (*folders, *scores)])
    page = write_comparison(output, runs, [" ".join(result.sentences()) for result in results])
    say(f"Page: {page}")
    return page


def refuse_output(output: Path, folders: Sequence[Path]) -> None:
    """Raise ValueError for a page that must not be written there."""
    if output.is_dir() or output.suffix not in (".html", ".htm"):
        raise ValueError(f"output: got {output}, expected an HTML file. Use --output compare.html.")
    inside = [folder for folder in folders if output.resolve().is_relative_to(folder.resolve())]
    if inside:
        raise ValueError(f"output: {output} is in the run folder {inside[0]}, which is only read. Choose another.")
    if output.exists():
        with output.open("rb") as file:
            if GENERATOR.encode() not in file.read(4096):
                raise ValueError(f"output: {output} is not a page of finetune compare. Remove it, or choose another.")


def table(summaries: Sequence[Summary], likeness: str) -> list[str]:
    """Return the lines of a table for the terminal."""
    head = ("run", "steps", "lowest validation", "use", likeness, "against the best")
    rows = [
        (each.name, each.steps, each.lowest_validation, each.use, each.likeness, each.against) for each in summaries
    ]
    cells = [head, *([text or "-" for text in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
