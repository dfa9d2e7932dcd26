"""Refuse phrases of our dialect in prose; CONTRIBUTING.md has the glossary.

    python3 .ci/phrases.py [FILE ...]

Code is not prose: blocks, `words in backticks` and the targets of links are left alone, so options and files may keep
their names. In Python the comments, docstrings and other strings with a space are prose.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATHS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", ".ci", "benchmarks")
PATHS += ("datasets_prep", "finetune", "recipes", "tests", "tools")
"""Files, and folders whose Markdown and Python files are read."""
ALLOWED = {
    ".ci/phrases.py": 1,
    "datasets_prep/captioners/base.py": 4,
    "datasets_prep/captioners/cleaning.py": 1,
    "datasets_prep/captions/generate.py": 3,
    "datasets_prep/captions/name_words.py": 3,
    "datasets_prep/lint/checks.py": 2,
    "datasets_prep/measure/embedded.py": 2,
    "datasets_prep/sources/tables.py": 1,
    "finetune/tasks/preservation.py": 1,
    "finetune/config/dreambooth.py": 4,
    "finetune/data/hub.py": 1,
    "finetune/run/class_images.py": 1,
    "tests/e2e/test_commands.py": 1,
    "tests/e2e/test_other_processes.py": 1,
    "tests/e2e/test_phrases.py": 13,
    "tests/invariants/test_quantized_runs.py": 1,
    "tests/unit/data/captions/test_text.py": 1,
    "tests/unit/data/captions/test_tokens.py": 1,
    "tests/unit/datasets_prep/captions/test_generate.py": 2,
    "tests/unit/datasets_prep/captions/test_own.py": 2,
    "tests/unit/datasets_prep/lint/test_checks.py": 2,
    "tests/unit/datasets_prep/measure/test_embedded.py": 1,
    "tests/unit/run/test_class_images.py": 1,
}
"""Phrases that a file may contain: texts for models, patterns of what others write, captions, names."""

COUNTED = "bytes?|bits?|lines?|rows?|columns?|entry|entries|generators?|seconds"
PLACE = "in|on|at|beside|between|behind|below|above|under|anywhere|elsewhere|nowhere|together|alone|there|here"
PHRASES = {
    r"pictures?": "image",
    r"untouched": "base model",
    r"data sets?": "dataset",
    r"near[ -]cop(y|ies)": "near duplicate",
    r"anew": "again",
    r"(leaves?|left|leaving) away": "omit",
    r"(goes|go|went|going) on(?! top)": "continue",
    r"(stands?|stood|lies?|lay) (" + PLACE + ")": "is in, contains, appears",
    r"(works?|worked) otherwise": "say what works and what does not",
    r"(?<!there )(is|are) no (?!longer|more\b)": "is not a ...",
    r"(" + COUNTED + r") an? (?!few|lot|time)[a-z]+": "per: one line per prompt",
}
"""What is refused, as a regular expression of whole words in any case, and what to write instead."""

BLOCK = re.compile(r"^(```.*?^```|(?: {4}\S[^\n]*\n?)+)", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"``.*?``|`[^`]*`|\]\([^)]*\)|https?://\S+")
TEXTS = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
MATCHES = [(re.compile(rf"\b(?:{phrase})(?:(?<= )|\b)", re.IGNORECASE), instead) for phrase, instead in PHRASES.items()]


def python_prose(text: str) -> str:
    """Blank out all but comments and strings of Python, in their places."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    kept = list(re.sub(r"[^\n]", "\0", text))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in TEXTS and " " in token.string:
            place = starts[token.start[0] - 1] + token.start[1]
            kept[place : place + len(token.string)] = token.string
    return CODE.sub(lambda found: re.sub(r"[^\n]", "\0", found[0]), "".join(kept))


def prose(text: str) -> str:
    """Blank out all code, in its place."""
    for code in (BLOCK, CODE):
        text = code.sub(lambda found: re.sub(r"[^\n]", "\0", found[0]), text)
    return text


def found(text: str, *, is_python: bool = False) -> Iterator[tuple[int, str, str]]:
    """Yield the line of each phrase, the phrase and its replacement."""
    flat = (python_prose if is_python else prose)(text).replace("\n", " ")
    for pattern, instead in MATCHES:
        for match in pattern.finditer(flat):
            yield text.count("\n", 0, match.start()) + 1, match[0].strip(), instead


def name_of(path: Path) -> str:
    """Return a path relative to the repository."""
    return path.resolve().as_posix().removeprefix(f"{ROOT.as_posix()}/")


def files(paths: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files to read."""
    for path in map(ROOT.joinpath, paths):
        yield from sorted([*path.rglob("*.md"), *path.rglob("*.py")]) if path.is_dir() else [path]


def main() -> int:
    """Print every phrase that is refused; return the exit code."""
    failed = False
    for path in [Path(name) for name in sys.argv[1:]] or files(PATHS):
        phrases = sorted(found(path.read_text(encoding="utf-8"), is_python=path.suffix == ".py"))
        if len(phrases) <= ALLOWED.get(name_of(path), 0):
            continue
        for line, phrase, instead in phrases:
            print(f'{path}:{line}: "{phrase}". Write: {instead}', file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
