"""Leave a run's results: exported files, the report, and its status."""

from pathlib import Path
from typing import NoReturn

from finetune.evaluate.table import choice_lines
from finetune.files import refuse_lost_folder, writing
from finetune.methods.base import TuningMethod
from finetune.processes.ranks import ranks
from finetune.processes.signals import EXIT_CODE, end_on_signals
from finetune.processes.streams import lost_output
from finetune.rate.shown import own_votes
from finetune.records.update import update_records
from finetune.report.rows import read_rows
from finetune.report.run import write_report
from finetune.report.validation import disagreement, summary
from finetune.run.export import Exported, export
from finetune.run.preview import all_previews
from finetune.run.saving.adapter_files import exported_state
from finetune.run.scoring.records import scored_images
from finetune.run.scoring.score import score_strengths
from finetune.run.scoring.weights import read_state
from finetune.run.weight_hashes import refuse_changed_files
from finetune.run_folder.finished import write_status
from finetune.run_folder.mirror.uploads import upload_stopped
from finetune.session import Progress, Session
from finetune.tracking.tracker import Tracker


def finish(session: Session, progress: Progress, method: TuningMethod) -> None:
    """Export and write the report on the main process; the others wait."""
    run, tracker = session.run, session.records.tracker
    end_on_signals("the run is trained and saved; the same command exports it.")
    if ranks().any(session.stop.requested()):
        end_stopped(session, progress.step)
    refuse_lost_folder(run.lock, run.folder)
    refuse_changed_files(session.model.source, session.model.stamps)
    exported = to_export(session, progress)
    session.tuned.network.eval()
    if tracker:
        written = export(session, exported, method)
        for path, difference in written.items():
            run.say(f"Exported {path}; reloaded, its output differs by {difference:.1e} relative.")
        for path in written:
            tracker.log_files(
                run.folder / "export",
                name=artifact_name(run.config.output.export_name, path, run.folder / "export"),
                kind="model",
                paths=[path],
                metadata={"base_sha256": session.model.base_sha256, "steps": exported.step},
                aliases=("latest", "best") if is_best(session, exported.step) else ("latest",),
            )
        log_gallery(session, tracker)
        log_scored(session, exported, progress.step, tracker)
        with writing(run.folder / "report.html"):
            report = write_report(run.folder, message=" ".join(lost_output()) or None, votes=own_votes(run.folder))
        tracker.finish(0)
        for note in tracker.notes():
            run.say(note)
        if text := summary(read_rows(run.folder / "metrics.jsonl")[0]):
            run.say(text)
        tell_choice(session, progress, exported)
        write_status(run.folder, progress.step, written, exported.step, stopped_early=progress.step < run.steps)
        run.say(f"Report: {report}")
        if session.desk is not None or run.config.preview.prompts:
            records = update_records(run.folder.absolute().parent, run.folder, lambda text: run.warn([text]))
            if records is not None:
                run.say(f"Its images are in {records}, which finetune records {records.parent} searches.")
    ranks().exchange()


def to_export(session: Session, progress: Progress) -> Exported:
    """Choose the weights to export, and score them at other strengths. All processes take part."""
    desk, wanted = session.desk, session.run.config.evaluate.export
    step = progress.step
    if desk is not None and wanted != "last":
        choice = desk.choice()
        step = int(wanted) if wanted.isdigit() else progress.step if choice is None else choice.row["step"]
        if not desk.is_scored(step):
            known = ", ".join(str(row["step"]) for row in desk.rows) or "none"
            raise ValueError(
                f"evaluate.export: step {step} was not scored, so its weights are gone. Use best, last, or one of "
                f"{known}."
            )
    if step == progress.step or desk is None:
        state = exported_state(session)
    else:
        state = read_state(session.tuned.network, desk.step_folder(step))
    strengths = score_strengths(session, progress, step)
    if ranks().any(session.stop.requested()):
        end_stopped(session, progress.step)
    if desk is not None and ranks().rank == 0:
        desk.write(**({} if strengths is None else {"strengths": strengths}), exported_step=step)
    return Exported(step, state, strengths)


def is_best(session: Session, step: int) -> bool:
    """Tell if the step is the one that the rule chooses."""
    choice = session.desk.choice() if session.desk else None
    return choice is not None and choice.row["step"] == step


def tell_choice(session: Session, progress: Progress, exported: Exported) -> None:
    """Print which step is exported and why."""
    desk, run = session.desk, session.run
    if desk is None:
        return
    if progress.step < run.steps:
        run.say(
            f"Training ended early, after step {progress.step} of {run.steps}: {desk.config.patience} later "
            "checkpoints were scored in vain. The same command with --evaluate.patience 0 trains on."
        )
    choice = desk.choice()
    for line in choice_lines(choice):
        run.say(line)
    rows, _ = read_rows(run.folder / "metrics.jsonl")
    if text := disagreement(choice.row["step"] if choice else None, rows):
        run.say(text)
    if exported.strengths is not None:
        run.say(exported.strengths["reason"])
    share = desk.seconds / (desk.seconds + progress.seconds) if progress.seconds else 1.0
    run.say(f"Exported: step {exported.step}. Scoring took {share:.0%} of the time of steps and scores.")


def artifact_name(name: str, path: Path, folder: Path) -> str:
    """Name the artifact of one exported format. It is the export's name and that of the file or folder."""
    inside = path.relative_to(folder).parts  # none for a whole pipeline
    part = "-".join(inside).removesuffix(".safetensors")
    return name if part in ("", name) else f"{name}-{part}"


def log_gallery(session: Session, tracker: Tracker) -> None:
    """Log the previews of all steps as one table."""
    if rows := all_previews(session.run.folder / "previews", session.run.config.preview):
        tracker.log_gallery(rows)


def log_scored(session: Session, exported: Exported, step: int, tracker: Tracker) -> None:
    """Log the scored images as one table. The best and the exported step are numbers."""
    if not (scored := scored_images(session)):
        return
    tracker.log_scored(scored)
    found = {"score/exported_step": exported.step}
    if session.desk is not None and (choice := session.desk.choice()) is not None:
        found["score/best_step"] = choice.row["step"]
    strength = (exported.strengths or {}).get("best")
    tracker.log(found if strength is None else found | {"score/strength": strength}, step)


def end_stopped(session: Session, step: int) -> NoReturn:
    """End a run that a signal stopped. Its newest checkpoint is of `step`."""
    run, tracker = session.run, session.records.tracker
    where = f"after step {step} of {run.steps}" if step else "before the first step"
    run.say(f"Stopped {where}; the same command continues from there.")
    if tracker:
        with writing(run.folder / "report.html"):
            message = " ".join([f"Stopped {where}.", *lost_output()])
            write_report(run.folder, message=message, votes=own_votes(run.folder))
        log_gallery(session, tracker)
        tracker.finish(EXIT_CODE)
    upload_stopped()
    ranks().exchange()  # a launcher kills those that still save once one has ended
    ranks().leave()
    raise SystemExit(EXIT_CODE)
