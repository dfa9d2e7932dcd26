"""The page of `finetune compare`: one file, which needs nothing beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from markupsafe import Markup

from finetune import __version__
from finetune.compare.judge import (
    Judged,
    different_data,
    different_options,
    images_seen,
    incomparable,
    judged,
    likeness_of,
    other_losses,
)
from finetune.compare.runs import ComparedRun, RunImages
from finetune.report.charts import NUM_COLORS, Chart, Line, Point, line_chart, number, smoothed
from finetune.report.curves import duration, with_base
from finetune.report.gallery import Gallery, GalleryRow, sizes, small_copy
from finetune.report.page import around, asset, templates, write_page
from finetune.report.rows import numbers, series
from finetune.report.validation import lowest

MOST_ROWS = 24
GENERATOR = "sd-finetune compare"


@dataclass(frozen=True)
class Summary:
    """One line of the table of runs."""

    name: str
    steps: str
    lowest_validation: str
    use: str
    likeness: str
    against: str
    color: int
    style: str
    images_seen: str = ""
    time: str = ""


def write_comparison(path: Path, runs: Sequence[ComparedRun], votes: Sequence[str] = ()) -> Path:
    """Write the page; return its path. `votes` say what people prefer."""
    name = likeness_of(runs)
    judgements = judged(runs)
    names = list(dict.fromkeys(score for run in runs if run.step for score in run.step.scores))
    style, script = asset("images.css") + asset("compare.css"), asset("images.js")
    pieces = (
        templates()
        .get_template("compare.html")
        .generate(
            around(f"Comparison of {len(runs)} runs", style=style, script=script),
            generator=GENERATOR,
            runs=runs,
            summaries=[summary(judgement, place, name) for place, judgement in enumerate(judgements)],
            likeness=name,
            notes=notes(runs),
            judgements=judgements,
            score_names=[name, *(each for each in names if each != name)],
            charts=charts(runs),
            options=different_options(runs),
            data=different_data(runs),
            galleries=galleries(runs),
            votes=votes,
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
            version=__version__,
        )
    )
    write_page(path, pieces)
    return path


def notes(runs: Sequence[ComparedRun]) -> list[str]:
    """Say which runs cannot be compared, and why."""
    found = incomparable(runs)
    if all(run.step is None for run in runs):
        listed = " ".join(str(run.folder) for run in runs)
        return [f"No run was scored. To score all on one grid: finetune evaluate {listed} --output SCORES, then add "
                "--scores SCORES to this command.", *other_losses(runs)]  # fmt: skip
    lines = [f"Scores of {name} are not beside the others': {', '.join(why)}." for name, why in found.items() if why]
    return lines + other_losses(runs)


def summary(judgement: Judged, place: int, likeness: str) -> Summary:
    """Sum up a run in one line."""
    run, low = judgement.run, lowest(judgement.run.rows)
    choice, score = run.scored.choice, run.score(likeness)
    at = "" if choice is None or choice.strength is None else f" at strength {choice.strength:g}"
    use = "" if run.step is None else run.step.name + at
    interval = ""
    if score is not None and score.value is not None:
        interval = f"{score.value:.3f}"
        if score.low is not None and score.high is not None:
            interval += f" [{score.low:.3f}, {score.high:.3f}]"
    elapsed = numbers(run.rows, "elapsed_seconds")
    return Summary(
        name=run.name,
        steps="" if run.num_steps is None else f"{run.num_steps:,}",
        lowest_validation="" if low is None else f"{number(low.loss, 3)} at step {low.step:,}",
        use=use,
        likeness=interval,
        against=judgement.words if judgement.is_comparable else "",
        color=color_of(place),
        style=style_of(place),
        images_seen=images_seen(run),
        time=duration(elapsed[-1]) if elapsed else "",
    )


def color_of(place: int) -> int:
    """Return the colour of a run."""
    return place % NUM_COLORS + 1


def style_of(place: int) -> Literal["plain", "dashed"]:
    """Return the style of a run's lines. It changes where colours begin again."""
    return "plain" if place // NUM_COLORS % 2 == 0 else "dashed"


def charts(runs: Sequence[ComparedRun]) -> list[Markup]:
    """Draw the curves of all runs over each other."""
    likeness = likeness_of(runs)
    drawn = [
        over_each_other("Loss, running mean", "loss", [smoothed(series(run.rows, "loss")) for run in runs], runs),
        over_each_other("Validation loss", "loss", [with_base(run.rows) for run in runs], runs),
    ]
    names = dict.fromkeys([likeness, *(name for run in runs for name in run.scored.names)])
    for name in names:
        points = [scores_over_steps(run, name) for run in runs]
        if any(len(each) > 1 for each in points):
            drawn.append(over_each_other(f"{name} over steps", "", points, runs))
    return [Markup(chart) for chart in drawn if chart]


def over_each_other(title: str, unit: str, points: Sequence[Sequence[Point]], runs: Sequence[ComparedRun]) -> str:
    """Draw one line per run that has points."""
    lines = tuple(
        Line(run.name, tuple(each), style_of(place), color_of(place))
        for place, (run, each) in enumerate(zip(runs, points, strict=True))
        if each
    )
    return line_chart(Chart(title, unit, lines, width=1150))


def scores_over_steps(run: ComparedRun, name: str) -> list[Point]:
    """Return the values of a score over the scored steps."""
    found = [(each.step, each.scores[name].value) for each in run.scored.steps if name in each.scores]
    return [(float(step), value) for step, value in found if step is not None and value is not None]


def galleries(runs: Sequence[ComparedRun]) -> list[tuple[str, Gallery]]:
    """Put the same prompts and seeds beside each other. One gallery has strength 1, one the chosen strengths."""
    whole = [run.images(run.shots[2]) for run in runs]
    names = [f"{run.name}: step {run.shots[2]:,}" if run.shots[2] else run.name for run in runs]
    stronger = [run.images_at_choice() for run in runs]
    found = [("1", side_by_side(runs, names, whole))]
    if any(stronger):
        chosen = [images or at_one for images, at_one in zip(stronger, whole, strict=True)]
        named = [
            f"{name} at strength {run.scored.choice.strength:g}" if images and run.scored.choice else name
            for run, name, images in zip(runs, names, stronger, strict=True)
        ]
        found.append(("the chosen one", side_by_side(runs, named, chosen)))
    return [(name, made) for name, made in found if made is not None]


def side_by_side(runs: Sequence[ComparedRun], names: Sequence[str], drawn: Sequence[RunImages]) -> Gallery | None:
    """Return the images that at least two runs share. Each run has a column."""
    keys = list(dict.fromkeys(key for images in drawn for key in images))
    shared = [key for key in keys if sum(key in images for images in drawn) > 1]
    shown = first_seeds_first(shared)[:MOST_ROWS]
    if not shown:
        return None
    bases = [run.images(0) for run in runs]
    side, width = sizes(len(shown), len(runs) + 1)
    rows = []
    for key in sorted(shown, key=shared.index):
        base = next((images[key] for images in bases if key in images), None)
        paths = [base, *(images.get(key) for images in drawn)]
        rows.append(GalleryRow(key[0], "", key[1], [small_copy(path, side, width) for path in paths]))
    left_out = [f"{len(shared) - len(shown)} prompts and seeds"] if len(shared) > len(shown) else []
    return Gallery(["base model", *names], rows, width, left_out)


def first_seeds_first(keys: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Order keys so each prompt comes once before any comes twice."""
    seen: dict[str, int] = {}
    ranks = []
    for key in keys:
        seen[key[0]] = seen.get(key[0], -1) + 1
        ranks.append(seen[key[0]])
    return [key for _, key in sorted(zip(ranks, keys, strict=True), key=lambda pair: pair[0])]
