"""`finetune wandb-view`: a W&B workspace and report of a run."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune.config.parse.command_line import read_yaml
from finetune.extras import install_command
from finetune.files import write_atomically
from finetune.json_text import parse_json
from finetune.report.rows import read_json, read_rows
from finetune.tracking.tracker import DEFAULT_PROJECT
from finetune.tracking.wandb.server import answers

TEMPLATE = Path(__file__).with_name("view_script.py")
FACTS = re.compile(r"^# The run that.*?^# End of what[^\n]*\n", re.MULTILINE | re.DOTALL)
PACKAGE = "wandb_workspaces"
SECONDS = 120.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class ViewFacts:
    """Facts that the view of a run depends on. The names are those of the script's constants in lower case."""

    entity: str | None
    project: str
    run_id: str
    run_name: str
    verdict: list[str]
    """Sentences about the checkpoint to use."""
    rates: list[str]
    timesteps: list[str]
    """Validation losses by timestep."""
    scores: list[str]
    has_previews: bool


def view(run: Path, entity: str | None, project: str | None, output: Path | None, say: Say) -> Path:
    """Write the script, and run it where somebody is logged in. Returns the script's path."""
    facts, path = read_facts(run, entity, project), output or run / "wandb_view.py"
    if path.exists() and not is_ours(path):
        raise ValueError(f"output: {path} is there and not from this command. Move it, or give another name.")
    write_atomically(path, script_text(facts))
    say(f"Script: {path}")
    reason = why_offline()
    if reason is not None:
        say(f"Nothing was saved in W&B: {reason}. Upload the run, then run: python {path}")
        return path
    try:
        ended = subprocess.run([sys.executable, str(path)], timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"wandb-view: W&B did not answer within {SECONDS:.0f} s. Run again: python {path}") from None
    if ended.returncode != 0:
        raise ValueError(f"wandb-view: W&B did not save the view, see above. Mend it and run: python {path}")
    return path


def read_facts(run: Path, entity: str | None, project: str | None) -> ViewFacts:
    """Read what a run folder says of its W&B run. Options come before those of the run and W&B's variables."""
    identity = read_json(run / "tracking.json").get("run_id")
    if not isinstance(identity, str):
        raise ValueError(
            f"run: {run} has no tracking.json, expected the folder of a run that W&B tracks. Use: --tracking.names "
            "wandb when it is trained."
        )
    given, environment = read_yaml(run / "config.yaml")[0], os.environ
    options = {key: texts[0] for key, texts in given.items() if len(texts) == 1 and texts[0] != "None"}
    rows, _ = read_rows(run / "metrics.jsonl")
    keys = sorted({key for row in rows for key in row}, key=in_order)
    scores = dict.fromkeys(name for row in score_rows(run / "scores.jsonl") for name in row)
    name = options.get("tracking.run_name") or environment.get("WANDB_NAME")
    return ViewFacts(
        entity=entity or options.get("tracking.entity") or environment.get("WANDB_ENTITY") or None,
        project=project or options.get("tracking.project") or environment.get("WANDB_PROJECT") or DEFAULT_PROJECT,
        run_id=identity,
        run_name=name or f"{run.absolute().name}-{identity[:4]}",
        verdict=verdict(read_json(run / "best.json")),
        rates=[f"train/{key}" for key in keys if re.fullmatch(r"lr(_\w+)?", key)] or ["train/lr"],
        timesteps=[key for key in keys if key.startswith("validation/loss_at_")],
        scores=[f"score/{name}" for name in scores],
        has_previews=(run / "previews" / "previews.json").is_file(),
    )


def in_order(key: str) -> tuple[str, int]:
    """Order keys by name, and those with numbers by these."""
    number = re.search(r"\d+$", key)
    return (key[: number.start()], int(number[0])) if number else (key, 0)


def score_rows(path: Path) -> list[Mapping[str, object]]:
    """Read the scores with a value of each scored checkpoint. Lines that are damaged are skipped."""
    found: list[Mapping[str, object]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            scores = parse_json(line)["scores"]
            found.append({name: each["value"] for name, each in scores.items() if each.get("value") is not None})
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def verdict(best: Mapping[str, object]) -> list[str]:
    """Say in sentences which checkpoint to use, with warnings."""
    if "step" not in best:
        return ["The checkpoints of this run were not scored. Train with --evaluate.every, or run finetune evaluate."]
    strengths, warnings = best.get("strengths"), best.get("warnings")
    strength = strengths.get("best") if isinstance(strengths, dict) else None
    found = [f"Use step {best['step']}" + (f" at strength {strength}." if strength is not None else ".")]
    found += [str(best["reason"])] if best.get("reason") else []
    return found + [f"Warning: {text}" for text in (warnings if isinstance(warnings, list) else [])]


def script_text(facts: ViewFacts) -> str:
    """Fill the facts of a run into the script."""
    lines = [f"{name.upper()} = {value!r}" for name, value in vars(facts).items()]
    text = "\n".join(["# The run that this file was written for:", *lines, "# End of what differs between runs.", ""])
    return FACTS.sub(lambda _: text, TEMPLATE.read_text(encoding="utf-8"), count=1)


def is_ours(path: Path) -> bool:
    """Recognize a script of this command."""
    with path.open("rb") as file:
        return file.readline(200) == TEMPLATE.read_bytes().partition(b"\n")[0] + b"\n"


def why_offline() -> str | None:
    """Say why nothing can be saved in W&B now. None where it can be."""
    if importlib.util.find_spec(PACKAGE) is None:
        return f"wandb-workspaces is not installed ({install_command('wandb-view')})"
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return f"WANDB_MODE={os.environ['WANDB_MODE']}"
    import wandb
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib import wbauth

    server = wandb.setup().settings.base_url
    try:
        login = wbauth.authenticate_session(host=server, source="", prompt=False, update_session=False)
    except AuthenticationError as error:
        return str(error).rstrip(".")
    if login is None:
        return "nobody is logged in (wandb login)"
    return None if answers(server) else f"{server} does not answer"
