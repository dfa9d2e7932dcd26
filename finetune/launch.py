"""What every recipe's command does: options and data are checked without torch, then `train` runs; mistakes are
sentences."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO, TypeVar

from finetune.command_line import parse
from finetune.config import TrainConfig
from finetune.data.manifest import read_manifest
from finetune.runfolder import check_output, finished_message

if TYPE_CHECKING:
    from finetune.methods import TuningMethod

Config = TypeVar("Config", bound=TrainConfig)

DEBUG_VARIABLE = "SD_FINETUNE_DEBUG"


def run_recipe(
    kind: type[Config], method: Callable[[Config], "TuningMethod"], arguments: Sequence[str], *, program: str
) -> None:
    """Parses, checks and trains; exits with 0 when finished, 1 on a mistake, 75 when stopped by a signal after
    saving."""
    try:
        config = parse(kind, arguments, program=program)
        check_output(config.output.folder)
        message = finished_message(config)
        if message:
            say(message)
            return
        manifest = read_manifest(
            config.data.folder, image_column=config.data.image_column, caption_column=config.data.caption_column
        )
        quiet_libraries()
        from finetune.optim import check_optimizer
        from finetune.tracking import check_trackers

        check_optimizer(config.optim)
        check_trackers(config.tracking.names)
        from finetune.train import train

        train(config, method(config), manifest)
    except (ValueError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        say("Interrupted before training began; what was cached is kept.", file=sys.stderr)
        raise SystemExit(130) from None


def quiet_libraries() -> None:
    """Keeps what libraries say while they are imported and load weights out of the run's own output; errors still
    show."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def is_first_process() -> bool:
    """True on the process that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str, *, file: TextIO | None = None) -> None:
    """Prints on the first process."""
    if is_first_process():
        print(text, file=file, flush=True)


def fail(error: Exception) -> NoReturn:
    """Prints a mistake as plain sentences and exits with 1."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    text = str(error) if not isinstance(error, OSError) or error.strerror is None else os_error_text(error)
    say("error: " + text.replace("\n", "\n       "), file=sys.stderr)
    raise SystemExit(1)


def os_error_text(error: OSError) -> str:
    """Returns the sentence of an OSError without its number."""
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
