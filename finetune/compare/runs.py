"""Runs as `finetune compare` reads them. Their folders are only read."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune.config.parse.command_line import read_yaml
from finetune.report.gallery import Shots, by_text, find_previews, find_scored
from finetune.report.rows import Row, finite, read_json, read_rows
from finetune.report.scores import Scored, ScoredStep, ScoreValue, read_scores
from finetune.report.strengths import stronger
from finetune.report.usage import find_exported, metadata

FILES = ("config.yaml", "metrics.jsonl", "scores.jsonl")
"""A run folder has one of these."""
RunImages = Mapping[tuple[str, int], Path]
"""Images by prompt and seed."""


@dataclass(frozen=True)
class ComparedRun:
    """A run, with all that it is compared by."""

    name: str
    folder: Path
    options: Mapping[str, list[str]]
    rows: list[Row]
    card: dict[str, Any]
    scored: Scored
    exported: dict[str, str]
    """Metadata of an exported file."""

    @property
    def step(self) -> ScoredStep | None:
        """The scores of the chosen step. Where none is chosen, they are those of the last."""
        return self.scored.chosen or next(iter(reversed(self.scored.steps)), None)

    @property
    def goal(self) -> str:
        return self.scored.choice.goal if self.scored.choice else "style"

    @property
    def source(self) -> str:
        """The base model, as it was given."""
        return self.option("model.source")

    @property
    def num_steps(self) -> int | None:
        """The last step that was logged."""
        last = finite(self.rows[-1]["step"]) if self.rows else None
        return None if last is None else int(last)

    @property
    def grid(self) -> str:
        """The hash of the grid; empty without one."""
        if not self.scored.prompts:
            return ""
        parts = [[text for text, _ in self.scored.prompts], self.scored.seeds]
        return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def features(self) -> str:
        """The features that scored images were compared by."""
        return "" if self.step is None else json.dumps(self.step.row.get("features"), sort_keys=True)

    def option(self, key: str) -> str:
        """An option as text, empty where the run does not have it."""
        return ", ".join(self.options.get(key, []))

    def score(self, name: str) -> ScoreValue | None:
        """A score of the chosen step, if it could be computed."""
        found = self.step.scores.get(name) if self.step else None
        return found if found is not None and found.value is not None else None

    @cached_property
    def shots(self) -> tuple[Shots, Sequence[str], int | None]:
        """Images, prompts, and the step to show."""
        shown = find_scored(self.scored)
        step = self.step.step if self.step else None
        if any(step in by_step for by_step in shown.shots.values()):
            return shown.shots, shown.prompts, step
        shots = find_previews(self.folder / "previews")
        prompts = read_json(self.folder / "previews" / "previews.json").get("prompts")
        last = max((step for by_step in shots.values() for step in by_step), default=None)
        return shots, prompts if isinstance(prompts, list) else [], last

    def images(self, step: int | None) -> RunImages:
        """The images of a step by prompt and seed. Step 0 is the base model."""
        shots = self.shots[0]
        drawn = {key: shots[key][step] for key in shots if step is not None and step in shots[key]}
        return by_text(drawn, self.shots[1])

    def images_at_choice(self) -> RunImages:
        """The chosen step's images at the chosen strength. None where that is 1 or was not drawn."""
        is_shown = self.step is not None and self.shots[2] == self.step.step
        return by_text(stronger(self.scored), self.shots[1]) if is_shown else {}


def read_runs(folders: Sequence[Path], scores: Sequence[Path] = ()) -> list[ComparedRun]:
    """Read the runs. Those that were not scored in training get their scores from outputs of `finetune evaluate`."""
    refuse(folders, scores)
    extra = [read_scores(folder) for folder in scores]
    found = [read_run(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)]
    return [run if run.scored.steps else with_scores(run, extra) for run in found]


def refuse(folders: Sequence[Path], scores: Sequence[Path]) -> None:
    """Raise ValueError for what is not at least two different run folders."""
    wrong = []
    if len(folders) < 2:
        wrong.append(f"runs: got {len(folders)}, expected two or more run folders. Use: finetune compare RUN RUN ...")
    for folder in folders:
        if not any((folder / name).is_file() for name in FILES):
            wrong.append(f"runs: {folder} is not a run folder, expected one with {' or '.join(FILES)}. Name another.")
    places = Counter(folder.resolve() for folder in folders)
    wrong += [f"runs: {place} is given {num} times. Keep one." for place, num in places.items() if num > 1]
    for folder in scores:
        if not (folder / "scores.jsonl").is_file():
            wrong.append(f"scores: {folder} has no scores.jsonl. Name the output of finetune evaluate.")
    if wrong:
        raise ValueError("\n".join(wrong))


def names_of(folders: Sequence[Path]) -> list[str]:
    """Name runs by the last parts of their paths. They are as many as tell them apart."""
    paths = [folder.resolve() for folder in folders]
    for num in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-num:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def read_run(folder: Path, name: str) -> ComparedRun:
    """Read one run, as far as its files exist."""
    return ComparedRun(
        name=name,
        folder=folder,
        options=read_yaml(folder / "config.yaml")[0] if (folder / "config.yaml").is_file() else {},
        rows=read_rows(folder / "metrics.jsonl")[0],
        card=read_json(folder / "data_card.json"),
        scored=read_scores(folder),
        exported=metadata(find_exported(folder)),
    )


def with_scores(run: ComparedRun, extra: Sequence[Scored]) -> ComparedRun:
    """Give a run the scores of its export. They are those of the first output that has some."""
    for scored in extra:
        own = [each for each in scored.steps if each.target == run.folder.resolve().name]
        if own:
            return replace(run, scored=replace(scored, steps=own, choice=None))
    return run
