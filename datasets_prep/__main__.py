"""Prepare images for training.

    python -m datasets_prep --source FOLDER --output PREPARED --trigger "ink style"
    python -m datasets_prep review PREPARED
    python -m datasets_prep tags PREPARED
    python -m datasets_prep --source s3://bucket/raw --output s3://bucket/prepared

PREPARED receives the images, metadata.jsonl, rejected.jsonl and report.html. The same command again does nothing, or
only what is new: more images, other captions, other options, decisions made in review.
"""

import argparse
import shlex
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from datasets_prep.config import PrepConfig
from datasets_prep.config.prep import url_of
from datasets_prep.pipeline import Outcome, prepare
from datasets_prep.selection import counts_in_words
from finetune.config.parse.command_line import parse
from finetune.config.parse.once import options_once
from finetune.plurals import plural
from finetune.processes.garbage import spare_imports
from finetune.processes.streams import let_readers_leave, outlive_lost_output

PROGRAM = "python -m datasets_prep"


def main() -> None:
    """Prepare a dataset, or serve the review. A user's mistake is printed and ends with exit code 1."""
    outlive_lost_output()
    spare_imports()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about single files, which it does not name
    try:
        if sys.argv[1:2] == ["review"]:
            review(sys.argv[2:])
            return
        if sys.argv[1:2] == ["tags"]:
            print_tags(sys.argv[2:])
            return
        config = parse(PrepConfig, sys.argv[1:], program=PROGRAM)
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            outcome = prepare(config, shown_on(bar))
    except (ValueError, OSError) as error:
        sentence = str(error)
        if isinstance(error, OSError) and error.strerror is not None and error.filename is not None:
            sentence = f"{error.strerror}: {error.filename}"
        print("error: " + sentence.replace("\n", "\n       "), file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("\nInterrupted. What was measured is kept; the same command continues from there.", file=sys.stderr)
        raise SystemExit(130) from None
    let_readers_leave()
    print("\n".join(report(config, outcome)), flush=True)


def shown_on(bar: Progress):
    """Make a callback that shows one bar per stage."""
    tasks = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)

    return progress


def review(arguments: list[str]) -> None:
    """Serve the review page of a prepared folder until Ctrl-C."""
    from datasets_prep.review.server import serve

    purpose = "Keep, drop or rename image by image."
    parser = options_once(argparse.ArgumentParser(prog=f"{PROGRAM} review", description=purpose))
    parser.add_argument("prepared", type=Path, help="a folder that this command wrote")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (any that is free)")
    options = parser.parse_args(arguments)
    refuse_url("review", options.prepared)
    serve(options.prepared, options.port)


def print_tags(arguments: list[str]) -> None:
    """Print the tags of a prepared folder with their counts."""
    from datasets_prep.captions.tags import count_tags, listed_captions

    parser = options_once(argparse.ArgumentParser(prog=f"{PROGRAM} tags", description="Count the tags of captions."))
    parser.add_argument("prepared", type=Path, help="a folder that this command wrote")
    prepared = parser.parse_args(arguments).prepared
    refuse_url("tags", prepared)
    counts = count_tags(listed_captions(prepared))
    let_readers_leave()
    for tag, num in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        print(f"{num:8,}  {tag}")


def refuse_url(command: str, prepared: Path) -> None:
    """Raise ValueError for the URL of a prepared dataset."""
    if url := url_of(prepared):
        raise ValueError(
            f"{command}: {url} is in remote storage. Give the folder of this machine that its preparation printed; "
            f"without --work that is {PrepConfig(('any',), prepared).folder}"
        )


def report(config: PrepConfig, outcome: Outcome) -> list[str]:
    """List the lines printed at the end. The next command follows a line "Next:"."""
    output, shown = config.output if config.url is None else config.folder, config.url or str(config.output)
    if config.shard is not None and outcome.is_new:
        again = "Run the same command without --shard once all parts are through."
        return [f"Part {config.shard}: {plural(outcome.num_pictures, 'file is', 'files are')} measured. {again}"]
    left_out = sum(outcome.rejected.values())
    lines = [] if outcome.is_new else ["Nothing to do: the same files were prepared with the same options before."]
    lines.append(f"{shown}: {plural(outcome.num_pictures, 'image')} to train on, {plural(left_out, 'file')} left out.")
    if left_out:
        reasons = counts_in_words(outcome.rejected)
        lines.append(f"Left out: {reasons}; each with its detail in {output / 'rejected.jsonl'}.")
    lines += [f"Note: {notice}" for notice in outcome.notices]
    if config.url is not None and (config.write.format == "folder" or config.write.txt):
        lines.append("Note: recipes read tables from URLs, no folders of images. To train from there, omit --write.")
    lines.append(
        f"Look at {output / 'report.html'}, or decide image by image: {PROGRAM} review {shlex.quote(str(output))}"
    )
    where = Path("accelerate_configs", "single_gpu.yaml")
    where = where if where.is_file() else Path(__file__).parents[1] / where  # outside the checkout
    command = ["accelerate", "launch", "--config_file", str(where), "-m", "recipes.lora", "--config", "sd15_lora_style"]
    command += ["--model.source", "stable-diffusion-v1-5/stable-diffusion-v1-5"]
    command += ["--data.folder", shown, "--output.folder", f"runs/{output.name}"]
    return [*lines, "Next:", shlex.join(command)]


if __name__ == "__main__":
    main()
