"""`finetune import`: a config of another trainer as ours; torch-free."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from finetune.config.trainers.command_lines import has_options, read_arguments
from finetune.config.trainers.formats import Content, read_file
from finetune.config.trainers.kohya_gui import NAME as GUI
from finetune.config.trainers.recognise import described, trainer_of
from finetune.imports.given import Given
from finetune.imports.readers import read_given
from finetune.imports.settle import settled
from finetune.imports.translate import Translation
from finetune.imports.write import yaml_text
from finetune.plurals import plural

SINGLE_FILE = (
    "model.source is a single file: add --model.config FOLDER, the configs and tokenizer of its base model in "
    "diffusers layout, where the run asks for it."
)


def import_config(file: Path | None, words: Sequence[str], output: Path, say: Callable[[str], None]) -> None:
    """Read a config, write ours to `output` and print the lists. Raises ValueError before anything is written."""
    if (file is None) == (not words):
        raise ValueError("import: expected either a file or, behind --, the arguments of another trainer's script.")
    if output.exists():
        raise ValueError(f"output: {output} exists and is not overwritten. Give another with --output.")
    content: Content = read_arguments(words) if file is None else _read(file)
    source = "its arguments" if file is None else str(file)
    if isinstance(content, Mapping) and "script" in content and not has_options(content):
        raise ValueError(
            f"import: {source}: got {content['script']} without options, expected some that begin with --. Give them "
            "behind the script's name, or import the config file that it reads."
        )
    stem = trainer_of(content)
    if stem is None or isinstance(content, list):
        raise ValueError(f"import: {source}: {described(content)}")
    given = read_given(stem, content, Path() if file is None else file.parent)
    if not any(map(given.table.rows, set(given.options) - {"script"})) and not given.folders:
        raise ValueError(
            f"import: {source}: nothing of it is an option of {given.table.name}, got {', '.join(content)}. Give the "
            "config or the command that trains."
        )
    for each in given.table.refused:
        if (what := each.refused(given.options)) is not None:
            raise ValueError(f"import: {source}: {what} of {given.table.name}: {each.why}")
    found, needed = settled(given)
    command = launch_command(found, given, needed, output)
    header = (
        f"Imported from {given.table.name} ({source}) by finetune import. Their option is behind each of ours.",
        command,
    )
    with output.open("x", encoding="utf-8") as written:
        written.write(yaml_text(found, given, header))
    for line in report(found, given, source):
        say(line)
    if needed:
        say(f"Still needed: {', '.join(needed)}.")
    if str(found.settings.get("model.source", "")).endswith((".safetensors", ".sft")):
        say(SINGLE_FILE)
    say(f"Written: {output}. Train with:\n  {command}")


def _read(file: Path) -> Content:
    try:
        return read_file(file)
    except ValueError as error:
        raise ValueError(f"import: {error}") from None


def launch_command(found: Translation, given: Given, needed: dict[str, str], output: Path) -> str:
    """Return the command that trains with the written file."""
    launcher = [part for name, text in found.launch.items() for part in (f"--{name}", text)]
    flags = [part for key, text in needed.items() for part in (f"--{key}", text)]
    words = ["accelerate", "launch", *launcher, "-m", given.recipe, "--config", str(output), *flags]
    return shlex.join(words)


def report(found: Translation, given: Given, source: str) -> list[str]:
    """Return the lists of what was and was not taken over."""
    lines = [f"{source}: {plural(len(given.options), 'option')} of {given.table.name}, for {given.recipe}."]
    if given.names:
        listed = ", ".join(f"{key} is {name}" for key, name in given.names.items())
        lines.append(f"It is a file of {GUI}; in names of sd-scripts {listed}.")
    titles = {
        "One to one": found.same,
        "Different in meaning": found.differs,
        "Without a counterpart, not taken over": found.absent,
        f"Unknown among the options of {given.table.name}, not taken over": found.unknown,
    }
    for title, parts in titles.items():
        lines += ["", f"{title} ({len(parts)}):", *(f"  {part}" for part in parts)] if parts else []
    if found.idle:
        lines += [
            "",
            f"Nothing to set, since they are off, act only with others, or are so here: {', '.join(found.idle)}.",
        ]
    return [*lines, ""]
