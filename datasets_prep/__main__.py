"""Prepare a folder of pictures for training.

    python -m datasets_prep --source FOLDER --output PREPARED --trigger "ink style"

PREPARED receives images/, metadata.jsonl and rejected.jsonl. The same command again does nothing, or makes it
anew when pictures, captions or options have changed.
"""

import shlex
import sys
import warnings
from pathlib import Path

from datasets_prep.config import PrepConfig
from datasets_prep.pipeline import Outcome, counted, prepare
from finetune.command_line import parse


def main() -> None:
    """Prepares with the command line's options; mistakes are sentences and end with 1."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about single files, which it does not name
    try:
        config = parse(PrepConfig, sys.argv[1:], program="python -m datasets_prep")
        outcome = prepare(config)
    except (ValueError, OSError) as error:
        sentence = str(error)
        if isinstance(error, OSError) and error.strerror is not None:
            sentence = f"{error.strerror}: {error.filename}"
        print("error: " + sentence.replace("\n", "\n       "), file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        raise SystemExit(130) from None
    print("\n".join(report(config.output, outcome)))


def report(output: Path, outcome: Outcome) -> list[str]:
    """Returns what is printed at the end, with the next command as the last line."""
    left_out = sum(outcome.rejected.values())
    lines = [] if outcome.is_new else ["Nothing to do: the same files were prepared with the same options before."]
    lines.append(f"{output}: {outcome.num_pictures:,} pictures to train on, {left_out:,} files left out.")
    if left_out:
        lines.append(f"Left out: {counted(outcome.rejected)}; each with its detail in {output / 'rejected.jsonl'}.")
    lines += [f"Note: {notice}" for notice in outcome.notices]
    lines.append("Not part of this version: near duplicates, picture quality, captions by a model, report.html.\nNext:")
    command = ["accelerate", "launch", "--config_file", "accelerate_configs/single_gpu.yaml", "-m", "recipes.lora"]
    command += ["--config", "recipes/configs/sd15_lora_style.yaml"]
    command += ["--model.source", "stable-diffusion-v1-5/stable-diffusion-v1-5"]
    command += ["--data.folder", str(output), "--output.folder", f"runs/{output.name}"]
    return [*lines, shlex.join(command)]


if __name__ == "__main__":
    main()
