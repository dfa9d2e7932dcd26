"""Comparable runs, and the differences between them."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from finetune.compare.runs import ComparedRun
from finetune.config.evaluate import LIKENESS
from finetune.evaluate.choice import difference
from finetune.evaluate.intervals import Interval
from finetune.report.options import OF_PLACE
from finetune.report.options import shown as texts_shown
from finetune.report.rows import finite

BASE = "ss_base_weights_sha256"


@dataclass(frozen=True)
class Table:
    """Rows of texts, one per run after the name of each row."""

    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Judged:
    """A run beside the best of the comparable ones."""

    run: ComparedRun
    is_comparable: bool
    is_best: bool
    against_best: Interval | None
    """Likeness minus that of the best, paired by prompt and seed."""

    @property
    def words(self) -> str:
        """The place of the run in words."""
        if self.is_best:
            return "highest"
        if self.against_best is None:
            return ""
        if self.against_best.contains_zero:
            return "no difference shows"
        return f"{self.against_best.low:+.3f} to {self.against_best.high:+.3f}"


def base_models(runs: Sequence[ComparedRun]) -> list[str]:
    """Return what tells the base models apart. It is the hash of their weights where every run has it."""
    hashes = [run.exported.get(BASE, "") for run in runs]
    return hashes if all(hashes) else [" ".join((run.source, run.option("model.revision"))) for run in runs]


def incomparable(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """Say why the scores of each run cannot be compared. The reasons are by name, and empty where they can."""
    found: dict[str, list[str]] = {run.name: [] for run in runs}
    bases = dict(zip((run.name for run in runs), base_models(runs), strict=True))
    usual_base = most_frequent(bases.values())
    for run in runs:
        if bases[run.name] != usual_base:
            found[run.name].append(f"another base model ({run.source or 'not known'})")
        if run.step is None:
            found[run.name].append("not scored")
    scored = [run for run in runs if not found[run.name]]
    usual: tuple[tuple[Callable[[ComparedRun], str], str], ...] = (
        (lambda run: run.grid, "another grid of prompts and seeds"),
        (lambda run: run.features, "images compared by other features"),
        (lambda run: LIKENESS.get(run.goal, "style"), "another goal"),
    )
    for key, reason in usual:
        values = [key(run) for run in scored]
        for run, value in zip(scored, values, strict=True):
            if value != most_frequent(values):
                found[run.name].append(reason)
    return found


def most_frequent(values: Iterable[str]) -> str:
    """Return the most frequent text, the first of several."""
    counted = Counter(values)
    return counted.most_common(1)[0][0] if counted else ""


def other_losses(runs: Sequence[ComparedRun]) -> list[str]:
    """Say which losses cannot be compared."""
    notes = []
    bases = base_models(runs)
    objectives = [[base, *(run.option(key) for key in loss_keys(runs))] for base, run in zip(bases, runs, strict=True)]
    if names := unusual(runs, [str(each) for each in objectives]):
        notes.append(f"Losses of {names} are of another base model or with other loss options than the others'.")
    held_out = [
        str([run.card.get("fingerprint"), run.option("validation.fraction"), run.option("validation.num_timesteps")])
        for run in runs
    ]
    if names := unusual(runs, held_out):
        notes.append(f"Validation losses of {names} are on other images or timesteps than the others'.")
    return notes


def loss_keys(runs: Sequence[ComparedRun]) -> list[str]:
    """List the options of the loss."""
    return sorted({key for run in runs for key in run.options if key.startswith("loss.")})


def unusual(runs: Sequence[ComparedRun], values: Sequence[str]) -> str:
    """Name the runs whose value is not the most frequent one."""
    return ", ".join(run.name for run, value in zip(runs, values, strict=True) if value != most_frequent(values))


def judged(runs: Sequence[ComparedRun]) -> list[Judged]:
    """Compare the likeness of each run with that of the best."""
    reasons = incomparable(runs)
    name = likeness_of(runs)
    beside = [run for run in runs if not reasons[run.name] and run.score(name)]
    best = max(beside, key=lambda run: value_in(run, name), default=None)
    return [
        Judged(run, run in beside, run is best, gap(run, best, name) if run in beside and run is not best else None)
        for run in runs
    ]


def likeness_of(runs: Sequence[ComparedRun]) -> str:
    """Name the score that most of the scored runs want."""
    return most_frequent([LIKENESS.get(run.goal, "style") for run in runs if run.step]) or "style"


def value_in(run: ComparedRun, name: str) -> float:
    """Return the value of a score, and minus infinity without one."""
    score = run.score(name)
    return -math.inf if score is None or score.value is None else score.value


def gap(run: ComparedRun, best: ComparedRun | None, name: str) -> Interval | None:
    """Bound the difference of a score to that of the best."""
    both = [each.score(name) if each else None for each in (run, best)]
    if best is None or run.step is None or best.step is None:
        return None
    if any(score is None or score.low is None or score.high is None for score in both):
        return None
    return difference(run.step.row, best.step.row, name)


def different_options(runs: Sequence[ComparedRun]) -> Table:
    """List the options that are not the same for all runs."""
    keys = list(dict.fromkeys(key for run in runs for key in run.options))
    rows = []
    for key in keys:
        texts = [texts_shown(run.options[key]) if key in run.options else "not an option" for run in runs]
        if key not in OF_PLACE and len(set(texts)) > 1:
            rows.append((key, texts))
    return Table(rows)


def different_data(runs: Sequence[ComparedRun]) -> Table:
    """List the facts of the data that differ between runs."""
    rows = []
    for name, key in (
        ("location", "location"),
        ("fingerprint", "fingerprint"),
        ("images", "num_pictures"),
        ("trained on", "num_train"),
        ("held out", "num_validation"),
    ):
        rows.append((name, [short(run.card.get(key, "not known")) for run in runs]))
    captions = [run.card.get("captions") for run in runs]
    rows.append(("captions", [str(each.get("num")) if isinstance(each, dict) else "not known" for each in captions]))
    counts = [run.card.get("warnings") for run in runs]
    rows.append(("warnings", [str(len(each)) if isinstance(each, list) else "not known" for each in counts]))
    return Table([row for row in rows if len(set(row[1])) > 1])


def short(value: object) -> str:
    """Cut a hash to what tells it from others."""
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def images_seen(run: ComparedRun) -> str:
    """Return the number of images that a run has seen."""
    seen = [value for row in run.rows if (value := finite(row.get("images_seen"))) is not None]
    return f"{seen[-1]:,.0f}" if seen else ""
