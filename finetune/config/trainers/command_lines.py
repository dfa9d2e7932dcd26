"""Commands in shell files of Unix and Windows, and their arguments; torch-free."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PureWindowsPath

from finetune.config.trainers.shell_lists import BATCH, CONDITIONAL, POWERSHELL, UNIX, ShellLists, whole_arrays
from finetune.config.trainers.tables import all_tables

ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
MARKS = {".bat": BATCH, ".cmd": BATCH, ".ps1": POWERSHELL, ".sh": UNIX}
"""The sign at the end of a line that the next one continues."""
ASSIGNMENTS = {
    BATCH: re.compile(r"\s*@?set\s+\"?(\w+)=([^\"]*)\"?\s*", re.IGNORECASE),
    POWERSHELL: re.compile(r"\s*\$(?:env:)?(\w+)\s*=\s*(.*)", re.IGNORECASE),
    UNIX: ASSIGNMENT,
}
VARIABLES = {
    BATCH: re.compile(r"%(\w+)%"),
    POWERSHELL: re.compile(r"\$\{?(?:env:)?(\w+)\}?"),
    UNIX: re.compile(r"\$\{(\w+)(?::?[-=](?P<default>[^{}]*))?\}|\$(\w+)"),
}
COMMENTS = {
    BATCH: re.compile(r"\s*(@?rem\b|::)", re.IGNORECASE),
    POWERSHELL: re.compile(r"\s*#"),
    UNIX: re.compile(r"\s*#"),
}
LAUNCHERS = ("accelerate", "launch", "python", "python3", "torchrun")
LAUNCHER_OPTIONS = ("mixed_precision", "num_processes")
REDIRECTION = re.compile(r"[\d&]?(>>?|<).*")


def command_line_in(text: str, suffix: str = "") -> dict[str, object] | None:
    """Find the training command in a shell file. Variables that the file sets are replaced. Raises ValueError where
    there are several, and where options belong to none."""
    mark = _mark_of(text, suffix)
    arrays = ShellLists(mark)
    variables: dict[str, str] = {}
    commands: list[tuple[int, list[str], list[str]]] = []
    for number, line in whole_arrays(_joined_lines(text, mark), mark):
        arrays.follow(line)
        if arrays.read(number, line, lambda inner: _words_of(inner, mark)):
            continue
        if match := ASSIGNMENTS[mark].fullmatch(line):
            values = [[match[2]]] if mark == BATCH else list(_split_commands(match[2], mark))
            text_of = with_variables(" ".join(values[0]) if values else "", mark, variables)
            _assign(arrays, variables, match[1], text_of)
            continue
        for words in _split_commands(line, mark):
            known = [with_variables(word, mark, variables) for word in arrays.spliced(words)]
            if _script(known):
                commands.append((number, known, arrays.left_out(words)))
            elif commands and known and known[0].startswith("--"):
                raise ValueError(
                    f"line {number} begins with {known[0].partition('=')[0]}, but belongs to no command. End the line "
                    f"before it with {mark}, with no comment or space behind, and remove lines of comments between."
                )
    if not commands:
        return None
    training = [each for each in commands if _is_training(_script(each[1]))] or commands
    if len(training) > 1:
        listed = ", ".join(f"{_script(words)} (line {number})" for number, words, _ in training)
        raise ValueError(
            f"it has {len(training)} training commands: {listed}. One is imported at a time: save each in a file of "
            "its own, or give its arguments, finetune import --output NEW.yaml -- SCRIPT.py OPTIONS."
        )
    _, words, left = training[0]
    return read_arguments(words) | ({CONDITIONAL: " ".join(left)} if left else {})


def with_variables(text: str, mark: str, variables: Mapping[str, str]) -> str:
    """Replace variables that are set, and defaults such as ${NAME:-value} of others."""

    def value(found: re.Match[str]) -> str:
        name = next(each for each in found.groups() if each is not None)
        default = found["default"] if mark == UNIX and found["default"] is not None else found[0]
        return variables.get(name if mark == UNIX else name.lower(), default)

    return VARIABLES[mark].sub(value, text)


def _assign(arrays: ShellLists, variables: dict[str, str], name: str, value: str) -> None:
    """Set a variable. Under a condition it is left as it was, or unset."""
    if arrays.depth:
        arrays.conditional.setdefault(arrays.name(name), []).append(f"{name}={value}")
    else:
        variables[arrays.name(name)] = value


def _words_of(text: str, mark: str) -> list[str]:
    """Return the words of an array. Its lines may end in comments."""
    return [word for line in text.splitlines() for words in _split_commands(line, mark) for word in words]


def _mark_of(text: str, suffix: str) -> str:
    """Return the sign of continued lines. The file's name says it, or else its lines."""
    found = re.search(r"\s([\\^`])\n", text)
    return MARKS.get(suffix) or (found[1] if found else UNIX)


def _joined_lines(text: str, mark: str) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each whole line. Comments end a line, and are omitted."""
    start, whole = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        is_comment = COMMENTS[mark].match(line) is not None
        start = start or number
        if not is_comment and line.endswith(mark):
            whole += f"{line[: -len(mark)]} "
            continue
        if whole and is_comment:
            yield start, whole
        elif not is_comment:
            yield start, whole + line
        start, whole = 0, ""
    if whole:
        yield start, whole


def _split_commands(line: str, mark: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line. Redirections are omitted, and lines that are not understood."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    reader.whitespace_split = True
    reader.commenters = "" if mark == BATCH else "#"
    if mark != UNIX:
        reader.escape = ""
    try:
        listed = list(reader)
    except ValueError:
        return
    words: list[str] = []
    for word in [*listed, ";"]:
        if word and not word.strip(";&|"):
            end = next((place for place, each in enumerate(words) if REDIRECTION.fullmatch(each)), len(words))
            if words[:end]:
                yield words[:end]
            words = []
        else:
            words.append(word)


def _script(words: Sequence[str]) -> str:
    """Return the name of a command's script, empty where it has none."""
    return next((PureWindowsPath(word).name for word in words if word.endswith(".py")), "")


def _is_training(script: str) -> bool:
    return "train" in script or any(each.scripts and re.fullmatch(each.scripts, script) for each in all_tables())


def has_options(found: Mapping[str, object]) -> bool:
    """Check for options besides the program and those of its launcher."""
    return bool(set(found) - {"script", *LAUNCHER_OPTIONS})


def read_arguments(words: Sequence[str]) -> dict[str, object]:
    """Read the arguments of a script. Its name becomes the option `script`; what precedes it is the launcher's."""
    found: dict[str, object] = {}
    place = next((number for number, word in enumerate(words) if word.endswith(".py")), None)
    if place is not None:
        launcher = read_arguments([word for word in words[:place] if word not in LAUNCHERS])
        found |= {key: value for key, value in launcher.items() if key in LAUNCHER_OPTIONS}
        found["script"] = PureWindowsPath(words[place]).name
        words = words[place + 1 :]
    key = ""
    values: list[str] = []
    for word in [*words, "--"]:
        if not word.startswith("--") and not re.match(r"-[A-Za-z]", word):
            values.append(word)
            continue
        if key:
            found[key] = True if not values else values[0] if len(values) == 1 else values
        key, assigned, value = word.lstrip("-").partition("=")
        key = key.replace("-", "_")
        values = [value] if assigned else []
    return found
