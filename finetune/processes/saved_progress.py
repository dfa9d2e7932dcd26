"""The step of the newest checkpoint, for final messages; torch-free. A data loader's process knows only the step at its
own start, so it does not use this."""

_step: int | None = None


def note_saved(step: int | None) -> None:
    """Remember the step of the newest checkpoint, None without one."""
    global _step
    _step = step


def newest_checkpoint_text() -> str:
    """Return a sentence about the newest checkpoint."""
    return "No checkpoint was saved yet." if _step is None else f"The checkpoint of step {_step} is saved."


def next_start_text() -> str:
    """Return a sentence about what the same command does now."""
    if _step is None:
        return "No checkpoint was saved yet: the same command starts the training from its beginning."
    return f"Everything up to step {_step} is saved: the same command continues from there."
