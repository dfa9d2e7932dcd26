"""Everything that a run knows of its scored checkpoints."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config.evaluate import DrawConfig, ScoringConfig
from finetune.evaluate.choice import Choice, Row, best_content, choose, should_stop
from finetune.evaluate.grid import Grid
from finetune.evaluate.rows import read_rows, write_rows
from finetune.evaluate.running.cost import Plan
from finetune.files import write_atomically
from finetune.report.rows import read_json
from finetune.run_folder.checkpoints import STEP_FOLDER

if TYPE_CHECKING:
    from finetune.evaluate.running.instruments import Instruments

VERSION = 1
"""Of scores in training; rows of another version are computed again."""
SCORED = "scored"
"""The folder of images and weights of scored steps, within the run's."""


@dataclass(eq=False)
class Desk:
    """The scored checkpoints of a run, the same on every process."""

    config: ScoringConfig
    folder: Path
    """The run's."""
    asked: Grid
    """The grid of the options."""
    dataset: str
    """The dataset's fingerprint."""
    draw: DrawConfig
    """How images are drawn."""
    plan: Plan | None = None
    """The part of it that the bound on time leaves; None before the first scored step."""
    rows: list[Row] = field(default_factory=list[Row])
    """Of the steps scored so far with this grid."""
    instruments: "Instruments | None" = None
    """What it is scored with; made at the first scored step."""
    seconds: float = 0.0
    """Spent on scoring since the process began."""

    @staticmethod
    def opened(config: ScoringConfig, folder: Path, grid: Grid, dataset: str, draw: DrawConfig, step: int) -> "Desk":
        """Return the desk of a run that continues from a step. Later rows are of lost steps, which are made again."""
        desk = Desk(config, folder, grid, dataset, draw)
        if desk.is_continued():
            desk.plan = Plan(**read_json(folder / "grid.json")["plan"])
            desk.rows = [row for row in read_rows(folder / "scores.jsonl") if row["step"] <= step]
            desk.rows = [row for row in desk.rows if row["id"] == desk.row_id(row["step"])]
        return desk

    def is_continued(self) -> bool:
        """True if what the folder holds was drawn with the same options."""
        return read_json(self.folder / "grid.json").get("id") == self.identity

    def remove_stale(self, step: int) -> None:
        """Remove images and scores of steps that are made again. With another grid that is all of them.

        The weights of such a step may be others, as where the learning rate was changed before the run continued.
        """
        is_continued = self.is_continued()
        for path in self.images.rglob("prompt*_seed*.png"):
            if not is_continued or step_of(path) > step:
                path.unlink()
        if (self.folder / "scores.jsonl").exists():
            write_rows(self.folder / "scores.jsonl", self.rows)

    @property
    def identity(self) -> str:
        """Hash everything that all rows depend on."""
        parts = [VERSION, self.asked.fingerprint, self.dataset, asdict(self.draw), asdict(self.config.features)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    @property
    def grid(self) -> Grid:
        """The grid that is drawn."""
        return self.asked if self.plan is None else reduced(self.asked, self.plan)

    @property
    def images(self) -> Path:
        return self.folder / SCORED

    def row_id(self, step: int) -> str:
        """Hash what a row depends on, besides the weights."""
        return hashlib.sha256(f"{self.identity} {self.grid.fingerprint} {step}".encode()).hexdigest()[:32]

    def step_folder(self, step: int) -> Path:
        """Name the folder of a step's weights and images."""
        return self.images / f"step_{step:06d}"

    def every(self) -> int:
        """Steps between two scored checkpoints."""
        return self.config.every * (1 if self.plan is None else self.plan.widened)

    def is_scored(self, step: int) -> bool:
        """True if the step's scores are there."""
        return any(row["step"] == step for row in self.rows)

    def choice(self) -> Choice | None:
        """Choose among the scored steps."""
        return choose(self.rows, self.config.goal, self.config.limits)

    def is_settled(self) -> bool:
        """True if training ends early. Enough checkpoints were scored in vain."""
        patience = self.config.patience
        return patience > 0 and should_stop(self.rows, self.config.goal, self.config.limits, patience)

    def write_grid(self) -> None:
        """Write grid.json: what is drawn, and why no more of it."""
        assert self.plan is not None
        content = {"id": self.identity, "plan": asdict(self.plan), "base_images": f"{SCORED}/base"} | asdict(self.grid)
        write_atomically(self.folder / "grid.json", json.dumps(content, indent=1, ensure_ascii=False))

    def write(self, **further: Any) -> None:
        """Write scores.jsonl, and best.json with what else is known of the best."""
        write_rows(self.folder / "scores.jsonl", self.rows)
        if (choice := self.choice()) is not None:
            content = best_content(choice, self.config.goal, self.config.limits) | further
            write_atomically(self.folder / "best.json", json.dumps(content, indent=1, ensure_ascii=False))


def step_of(path: Path) -> int:
    """Read the step of an image from its folder. It is 0 for the base model."""
    found = [match for part in path.parts if (match := STEP_FOLDER.match(part))]
    return int(found[-1][1]) if found else 0


def reduced(grid: Grid, plan: Plan) -> Grid:
    """Take the part of a grid that a plan leaves. It has the first prompts of each kind and the first seeds."""
    kept = []
    for number, prompt in enumerate(grid.prompts):
        place = sum(other.kind == prompt.kind for other in grid.prompts[:number])
        if place < plan.num_prompts:
            kept.append(prompt)
    return replace(grid, prompts=tuple(kept), seeds=grid.seeds[: plan.num_seeds])
