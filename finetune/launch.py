"""The command of every recipe. It checks options and data without torch, then trains; mistakes are sentences."""

import functools
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, TextIO

from finetune.config.checks import prompts_of
from finetune.config.parse.recipe_options import parse_recipe
from finetune.config.train import TrainConfig
from finetune.files import lock_folder
from finetune.models import refuse_unknown_family
from finetune.out_of_memory import is_out_of_memory
from finetune.planning.epochs import with_steps
from finetune.planning.proposal import launched_processes, with_kept_numbers, with_proposals
from finetune.planning.recipe import Config, Recipe, Stage
from finetune.processes.garbage import spare_imports
from finetune.processes.launch_request import launcher, refuse_launch, unread_config
from finetune.processes.ranks import LostProcess, is_lost_connection, ranks
from finetune.processes.run_log import open_run_log
from finetune.processes.signals import end_on_signals, end_with_launcher
from finetune.processes.streams import outlive_lost_output
from finetune.prompt_syntax import prompt_warnings
from finetune.replaced_folder import clear_replaced
from finetune.run_folder.finished import finished_message
from finetune.run_folder.mirror.fetch import fetch_newest
from finetune.run_folder.mirror.uploads import begin_uploads, finish_uploads, upload_after_failure
from finetune.run_folder.options import check_output
from finetune.run_folder.places import refuse_nested_folders
from finetune.run_folder.resume_source import refuse_no_checkpoint

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest

DEBUG_VARIABLE = "SD_FINETUNE_DEBUG"
SECONDS_TO_BE_STOPPED = 5.0
LOWER = (
    "What was saved is kept. finetune plan RECIPE OPTIONS --memory-gb GB shows what makes it fit. Lower "
    "data.resolution, train.batch_size or preview.size, keep frozen weights in fewer bits (model.quantization) or in "
    "host memory (model.offload), launch fewer processes, or use more memory."
)


def training_stage(config: TrainConfig, run: Callable[["Manifest"], object]) -> Stage:
    """Return the stage whose `run` trains with `config` into its output folder."""
    return Stage(config.output.folder, lambda: finished_message(config, say), run)


def read_manifest(recipe: Recipe[Config], config: Config) -> "Manifest":
    """Read the images of a config, with what was kept of them."""
    from finetune.data.kept_files import kept_files  # not for a finished run, which needs none of its imports

    return recipe.manifest(config, kept_files(config.cache.place))


def run_recipe(recipe: Recipe[Config], arguments: Sequence[str], program: str) -> None:
    """Parse, check and run the stages that are not finished."""
    outlive_lost_output()
    spare_imports()
    end_with_launcher()
    end_on_signals("training had not begun, and what was cached is kept; the same command starts again.")
    try:
        config, given = parse_recipe(recipe.config, arguments, program, say)
        refuse_launch(os.environ, launcher()[0])
        refuse_unknown_family(config.model.family)
        refuse_nested_folders(config)
        refuse_no_checkpoint(config.resume)
        fetch_newest(config)
        config, kept = with_kept_numbers(config, given)
        lines: list[str] = []
        read = functools.cache(functools.partial(read_manifest, recipe, config))
        # Whether the run is finished depends on its steps.
        config = with_steps(config, given, read, launched_processes(), arguments, lines.append)
        planned = recipe.tune(config)
        check_folders(planned)
        messages = [stage.finished() for stage in planned]
        if is_first_process():
            begin_uploads(config)
        for message in filter(None, messages):
            say(message)
        if None not in messages:
            finish_uploads(config)
            return
        begin_log(planned[messages.index(None)])
        if (note := unread_config(os.environ, program)) is not None:
            say(f"note: {note}")
        manifest = with_prompt_warnings(read(), config)
        config, proposed = with_proposals(config, given, kept, manifest, launched_processes())
        for line in [*lines, *proposed]:
            say(line)
        unfinished = [stage for stage, message in zip(recipe.tune(config), messages, strict=True) if message is None]
        quiet_libraries()
        from finetune.optim.build import check_optimizer
        from finetune.tracking.tracker import check_trackers

        check_optimizer(config.optim)
        check_trackers(config.tracking)
        for number, stage in enumerate(unfinished):
            if number:  # the log of the first began before its data was read
                begin_log(stage)
            stage.run(manifest)
        finish_uploads(config)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            fail(ValueError(f"out of memory: {str(error).strip() or type(error).__name__}. {LOWER}"))
        if not isinstance(error, RuntimeError):
            fail(error)
        if not is_lost_connection(error):
            raise
        fail_without(error)
    else:
        from finetune.run.device import end_group

        ranks().leave()
        end_group()


def check_folders(planned: Sequence[Stage]) -> None:
    """Refuse what cannot be written, and second writers before torch is imported."""
    for stage in planned:
        check_output(stage.folder)
        if is_first_process():
            with lock_folder(stage.folder):
                clear_replaced(stage.folder)


def begin_log(stage: Stage) -> None:
    """Begin or continue OUT/run.log of a stage on the first process."""
    if is_first_process():
        open_run_log(stage.folder / "run.log")


def with_prompt_warnings(manifest: "Manifest", config: TrainConfig) -> "Manifest":
    """Add a warning per option with prompts that other programs interpret."""
    return replace(manifest, warnings=(*manifest.warnings, *prompt_warnings(prompts_of(config))))


def quiet_libraries() -> None:
    """Hide what libraries print while they are imported and load weights. Errors still show."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a process that ends leaves stack traces as warnings
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def is_first_process() -> bool:
    """Check whether this process prints for all."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str, *, file: TextIO | None = None) -> None:
    """Print on the first process."""
    if is_first_process():
        print(text, file=file, flush=True)


def fail(error: Exception) -> NoReturn:
    """Print a mistake as plain sentences and exit with 1. A mistake that all processes meet is printed by the first,
    which then exits, so the launcher stops the others while they wait here. A mistake that a single process meets, such
    as a full disk or memory, is printed by that process."""
    ranks().close()
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    text, process = str(error), ""
    if isinstance(error, OSError) and error.strerror is not None:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if not is_first_process():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(SECONDS_TO_BE_STOPPED)
        process = f" in process {os.environ['RANK']}"
    print(f"error{process}: " + text.replace("\n", "\n       "), file=sys.stderr, flush=True)
    upload_after_failure()
    raise SystemExit(1)


def fail_without(error: RuntimeError) -> NoReturn:
    """Print why this process cannot continue alone, and exit with 1. Every process prints it, before the launcher ends
    it. The usual exit would wait for the others again."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    text = str(error) if isinstance(error, LostProcess) else ranks().explanation()
    print(f"error in process {ranks().rank}: {text}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)
