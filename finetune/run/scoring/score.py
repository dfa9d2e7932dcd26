"""Scores of a step's weights, and of the exported step's strengths."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from finetune.config.evaluate import LIKENESS
from finetune.evaluate.drawing import keep_part, missing_prompts, read_images
from finetune.evaluate.grid import KINDS
from finetune.evaluate.measure import Described, Yardstick
from finetune.evaluate.references import read_training_images
from finetune.evaluate.running.cost import Costs, Plan, affordable, told
from finetune.evaluate.running.desk import Desk
from finetune.evaluate.running.instruments import Instruments
from finetune.evaluate.running.strengths import usable_strengths
from finetune.evaluate.table import score_line
from finetune.files import refuse_lost_folder
from finetune.optim.ema import load_trained_state
from finetune.out_of_memory import explaining_out_of_memory
from finetune.processes.ranks import ranks
from finetune.run.saving.adapter_files import exported_state
from finetune.run.scoring.base import base_weights, make_instruments, move
from finetune.run.scoring.images import describe_grid, draw_grid
from finetune.run.scoring.records import log_scores
from finetune.run.scoring.weights import at_strength, has_strengths, read_state, save_weights
from finetune.run.step import due
from finetune.session import Progress, Session

SHOWN_STRENGTHS = (0.5, 0.75)
"""Strengths that every scored step is drawn at beside 1, for a few prompts."""
NUM_SHOWN = 2
"""Prompts of these drawings."""
IN_LINE = ("adherence", "drift", "leak", "memorisation", "faults")


def scoring_is_due(session: Session, step: int) -> bool:
    """Tell if the step is scored."""
    desk = session.desk
    return desk is not None and step > 0 and due(step, desk.every(), session.run.steps)


def is_settled(session: Session) -> bool:
    """Tell if training ends early."""
    return session.desk is not None and session.desk.is_settled()


def score(session: Session, progress: Progress) -> bool:
    """Draw and score the weights of the step, once. Returns False where a signal stopped it."""
    desk, step = session.desk, progress.step
    if desk is None or desk.is_scored(step):
        return True
    with timed(desk), explained(session):
        instruments = ready(session, desk, progress)
        if instruments is None or not scoring_is_due(session, step):  # the bound may have widened the interval
            return instruments is not None
        folder = desk.step_folder(step)
        state = exported_state(session)
        if ranks().rank == 0:
            refuse_lost_folder(session.run.lock, session.run.folder)
            save_weights(session, state, step, folder)
        ranks().exchange()
        with session.averaged_weights():
            row = scored_row(session, desk, instruments, folder, facts_of(desk, step, folder))
            if row is None or not draw_at_strengths(session, desk, instruments, folder):
                return False
        desk.rows.append(row)
    if ranks().rank == 0:
        desk.write()
        session.run.say(score_line(row, (LIKENESS[desk.config.goal], *IN_LINE)))
        log_scores(session, row, folder)
    return True


def facts_of(desk: Desk, step: int, folder: Path) -> dict[str, Any]:
    """Say what a row is of."""
    images = folder.relative_to(desk.folder).as_posix()
    return {"step": step, "target": f"step {step}", "id": desk.row_id(step), "images": images}


@contextlib.contextmanager
def timed(desk: Desk) -> Iterator[None]:
    """Count the seconds of the context as scoring."""
    started = time.perf_counter()
    try:
        yield
    finally:
        desk.seconds += time.perf_counter() - started


def explained(session: Session) -> contextlib.AbstractContextManager[None]:
    """Explain running out of memory by scoring."""
    return explaining_out_of_memory(
        "while a checkpoint was scored",
        "Lower evaluate.grid.num_seeds, whose images are drawn at once, or preview.size, or set evaluate.every 0 and "
        "score the finished run with finetune evaluate.",
    )


def ready(session: Session, desk: Desk, progress: Progress) -> Instruments | None:
    """Draw and measure the base model once; None where it was stopped. The bound on time is applied here."""
    if desk.instruments is not None:
        return desk.instruments
    instruments, base = make_instruments(session, desk), desk.images / "base"
    num_drawn = len(missing_prompts(base, desk.grid))
    with base_weights(session, instruments.parts, is_shared=instruments.is_shared):
        components = replace(instruments.parts.components, scheduler=session.components.scheduler)
        started = time.perf_counter()
        note = {"target": "base model"}
        if not draw_grid(session, desk, desk.grid, base, components, instruments.base_prompts, note):
            return None
        drawn = time.perf_counter()
        described = describe_grid(session.stop, instruments.features, desk.grid, base)
        if described is None:
            return None
        if desk.plan is None:
            took = time.perf_counter() - drawn
            drawing = (drawn - started) / num_drawn if num_drawn else took / len(desk.grid.prompts)
            per_image = (drawing + took / len(desk.grid.prompts)) / len(desk.grid.seeds)
            before, desk.plan = desk.grid, planned(session, desk, progress, per_image)
            if desk.grid != before:
                if ranks().rank == 0:
                    keep_part(base, before, desk.grid)
                ranks().exchange()
                described = describe_grid(session.stop, instruments.features, desk.grid, base)
        if described is None:
            return None
        if ranks().rank == 0:
            desk.write_grid()
        if ranks().rank == 0 or ranks().moves_together:  # the denoiser may be a part of the features
            instruments.yardstick = yardstick(session, desk, instruments, described.prompts)
        ranks().exchange()
    size = f"{len(desk.grid.prompts)} prompts x {len(desk.grid.seeds)} seeds"
    session.run.say(f"Scoring: {size} every {desk.every()} steps.")
    desk.instruments = instruments
    return instruments


def planned(session: Session, desk: Desk, progress: Progress, seconds_per_image: float) -> Plan:
    """Fit scoring into its share of the run's time. The first process decides."""
    run, config, grid = session.run, desk.config, desk.asked
    kinds = tuple(len(grid.of_kinds(kind)) for kind in KINDS)
    strengths = config.strengths if has_strengths(session) else ()
    asked = Plan(max(kinds), len(grid.seeds), 1, strengths)
    per_step = progress.seconds / max(progress.step, 1)
    costs = Costs(kinds, seconds_per_image, per_step, run.steps, config.every)
    found = affordable(asked, costs, config.max_share)
    found = Plan(**json.loads(ranks().exchange(json.dumps(asdict(found)))[0]))
    if text := told(asked, found, costs, config.max_share):
        run.say(text)
    return found


def yardstick(session: Session, desk: Desk, instruments: Instruments, described: list[Described]) -> Yardstick:
    """Measure the training images beside the base model's."""
    references = read_training_images(
        session.run.manifest, session.data.held_out_indices, desk.draw.size or session.run.config.data.resolution
    )
    return Yardstick.measured(desk.grid, instruments.features, instruments.model, references, described)


def scored_row(
    session: Session, desk: Desk, instruments: Instruments, folder: Path, facts: dict[str, Any]
) -> dict[str, Any] | None:
    """Draw and score the network's weights as they are. Returns the row on every process, None where it was
    stopped."""
    note = {"target": facts["target"]}
    with drawing(session):
        if not draw_grid(session, desk, desk.grid, folder, session.components, instruments.prompts, note):
            return None
    with base_weights(session, instruments.parts, is_shared=instruments.is_shared):
        described = describe_grid(session.stop, instruments.features, desk.grid, folder)
    if described is None:
        return None
    text = ""
    if instruments.yardstick is not None:
        images = read_images(folder, desk.grid, described.images)
        text = json.dumps(instruments.yardstick.row(facts, images, described.prompts))
    return json.loads(ranks().exchange(text)[0])


@contextlib.contextmanager
def drawing(session: Session) -> Iterator[None]:
    """Prepare the network and the VAE for drawing within the context."""
    network, vae = session.tuned.network, session.components.vae
    network.eval()
    try:
        with session.model.parts.lent("vae"):
            move([vae], session.run.accelerator.device)
            yield
    finally:
        network.train()


def draw_at_strengths(session: Session, desk: Desk, instruments: Instruments, folder: Path) -> bool:
    """Draw a few prompts at lower strengths too. Returns False where it was stopped."""
    if desk.plan is None or not desk.plan.strengths:
        return True
    shown = replace(desk.grid, prompts=desk.grid.prompts[:NUM_SHOWN], seeds=desk.grid.seeds[:1])
    with drawing(session):
        for strength in SHOWN_STRENGTHS:
            place, note = folder / f"strength_{strength:.2f}", {"strength": strength}
            with at_strength(session.tuned.network, strength):
                if not draw_grid(session, desk, shown, place, session.components, instruments.prompts, note):
                    return False
    return True


def score_strengths(session: Session, progress: Progress, step: int) -> dict[str, Any] | None:
    """Score the adapters of a scored step at other strengths. Returns what best.json says of them, on every process.

    The network has the step's weights afterwards. None where strengths are not scored, or where it was stopped.
    """
    desk = session.desk
    if desk is None or not desk.is_scored(step) or not desk.plan or not desk.plan.strengths:
        return None
    with timed(desk), explained(session):
        instruments = ready(session, desk, progress)
        if instruments is None:
            return None
        load_trained_state(session.tuned.network, read_state(session.tuned.network, desk.step_folder(step)))
        rows = [dict(next(row for row in desk.rows if row["step"] == step), strength=1.0)]
        for strength in desk.plan.strengths:
            if strength == 1:
                continue
            folder = desk.images / "strengths" / f"step_{step:06d}-{strength:.2f}"
            facts = facts_of(desk, step, folder) | {"strength": strength}
            with at_strength(session.tuned.network, strength):
                row = scored_row(session, desk, instruments, folder, facts)
            if row is None:
                return None
            rows.append(row)
    found = usable_strengths(rows, desk.config.goal, desk.config.limits)
    return found and found | {"step": step}
