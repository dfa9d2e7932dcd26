"""The first part of a run's page: which step, and why."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.plurals import first_few
from finetune.report.rows import Row
from finetune.report.scores import Choice, Scored
from finetune.report.usage import Exported, exported_step
from finetune.report.validation import disagreement, lowest, summary


@dataclass(frozen=True)
class Verdict:
    """A recommendation for a run."""

    headline: str
    reasons: list[str]
    facts: list[tuple[str, str]]
    warnings: list[str]
    command: str = ""
    """The next thing to run, where something is missing."""
    rule: str = ""


def verdict(
    folder: Path, scored: Scored, rows: Sequence[Row], exported: Exported | None, warnings: Sequence[str]
) -> Verdict:
    """Say which step to use. Without scores, say what is known and how to score. `warnings` are those of the data and
    the alarms of the first steps."""
    step = exported_step(exported)
    if step is None and scored.choice is not None and exported is not None:
        step = scored.choice.exported_step
    if scored.choice is not None:
        return of_choice(scored, scored.choice, rows, step, warnings)
    scores = shlex.quote(f"{folder}-scores")
    command = "" if exported is None else f"finetune evaluate {shlex.quote(str(folder))} --output {scores}"
    if scored.steps:
        reasons = ["The steps were scored, but no best.json names the one to use. The scores are below."]
        return Verdict("No step is chosen", [*reasons, *validated(rows)], [], list(warnings), command)
    if not rows:
        return Verdict("Nothing was trained yet", ["No step was logged yet."], [], list(warnings))
    low = lowest(rows)
    headline = "Not scored" if low is None else f"Not scored; validation loss was lowest at step {low.step:,}"
    reasons = [
        *validated(rows),
        "A loss does not say if the model learned its style or subject, or copies images.",
    ]
    facts = [] if step is None else [("exported", f"step {step:,}, the last")]
    return Verdict(headline, reasons, facts, list(warnings), command)


def of_choice(
    scored: Scored, choice: Choice, rows: Sequence[Row], exported: int | None, warnings: Sequence[str]
) -> Verdict:
    """Say what best.json chose, and what disagrees with it."""
    at = "" if choice.strength is None else f" at strength {choice.strength:g}"
    texts = choice.reason, choice.strength_reason, disagreement(choice.step, rows)
    reasons = [sentence(text) for text in texts if text]
    facts: list[tuple[str, str]] = []
    if choice.runner_up:
        facts.append(("runner-up", choice.runner_up))
    if choice.usable:
        low, high = min(choice.usable), max(choice.usable)
        facts.append(("usable strengths", f"{low:g}" if low == high else f"{low:g} to {high:g}"))
    if choice.goal:
        facts.append(("goal", choice.goal))
    if exported is not None:
        facts.append(("exported", f"step {exported:,}"))
    found = list(choice.warnings)
    if exported is not None and choice.step is not None and exported != choice.step:
        found.append(
            f"export/ has step {exported:,}, not step {choice.step:,}, which is chosen. Where the run scored it, the "
            "same command with --evaluate.export best exports it."
        )
    chosen = scored.chosen
    if chosen is not None and (repeated := chosen.repeated_images):
        found.append(f"{sentence(chosen.name)} repeats training images: {first_few(repeated)}.")
    return Verdict(f"Use {choice.name}{at}", reasons, facts, found + list(warnings), rule=choice.rule)


def validated(rows: Sequence[Row]) -> list[str]:
    """Say where the validation loss was lowest, if it was measured."""
    return [summary(rows) or "No image was held out, so there is no validation loss."]


def sentence(text: str) -> str:
    """Begin a text with a capital letter."""
    return text[:1].upper() + text[1:]
