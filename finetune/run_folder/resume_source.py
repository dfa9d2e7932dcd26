"""The values of `resume`, with advice where one is wrong; torch-free."""

from pathlib import Path

from finetune.plurals import first_few

EXPECTED = "Expected auto, never, or the folder of a checkpoint such as OUT/checkpoints/step_000100."


def refuse_no_checkpoint(resume: str) -> None:
    """Raise ValueError that says what `resume` names instead of a checkpoint."""
    path = Path(resume)
    if resume in ("auto", "never") or (path.is_dir() and path.name.startswith("step_")):
        return  # a checkpoint's folder that is damaged is told so when it is read
    if (path / "manifest.json").is_file():
        return
    checkpoints = checkpoints_near(path)
    listed = f" Checkpoints of that run: {first_few([str(folder) for folder in checkpoints])}." if checkpoints else ""
    if not path.exists():
        raise ValueError(f"resume: {path} is missing. {EXPECTED}{listed}")
    if is_export(path):
        raise ValueError(
            f"resume: got {path}, which is an exported model; it lacks the state of the optimizer that a run continues "
            f"from. {EXPECTED}{listed} {how_to_start_from(path)}"
        )
    if checkpoints:
        raise ValueError(f"resume: got {path}, which is not a checkpoint itself. {EXPECTED}{listed}")
    raise ValueError(f"resume: {path} is not a checkpoint: it has no manifest.json, which is missing. {EXPECTED}")


def checkpoints_near(path: Path) -> list[Path]:
    """Return the checkpoints of the run that contains a path, newest first."""
    for folder in (path, *path.resolve().parents[:3]):
        if found := sorted((*folder.glob("step_*/"), *folder.glob("checkpoints/step_*/")), reverse=True):
            return found
    return []


def is_export(path: Path) -> bool:
    """Recognize a weights file, or a folder with weights or a pipeline."""
    if path.is_file():
        return path.suffix == ".safetensors"
    return (path / "model_index.json").is_file() or any(path.glob("*.safetensors"))


def how_to_start_from(path: Path) -> str:
    """Advise how to start another run from an exported model."""
    if (path / "model_index.json").is_file():
        return f"To train it further in a new run: --model.source {path} with another --output.folder."
    return (
        "To begin a new run with a LoRA, merge it into its base model with diffusers: "
        "`pipeline.load_lora_weights(FILE); pipeline.fuse_lora(); pipeline.unload_lora_weights(); "
        "pipeline.save_pretrained(FOLDER)`, and give that folder as --model.source."
    )
