"""Refuses phrases of our dialect in prose: CONTRIBUTING.md has the glossary and says what to write instead.

    python3 .ci/phrases.py [FILE ...]

Code is not prose: blocks, `words in backticks` and the targets of links are left alone, so that options and files may
keep their names.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATHS = ("README.md", "CONTRIBUTING.md", "docs")
"""Files, and folders whose Markdown files are read; packages and tests follow."""

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
MATCHES = [(re.compile(rf"\b(?:{phrase})(?:(?<= )|\b)", re.IGNORECASE), instead) for phrase, instead in PHRASES.items()]


def prose(text: str) -> str:
    """Return the text with all code blanked out and every line in its place."""
    for code in (BLOCK, CODE):
        text = code.sub(lambda found: re.sub(r"[^\n]", "\0", found[0]), text)
    return text


def found(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the phrase and what to write instead; a phrase may run over the end of a line."""
    flat = prose(text).replace("\n", " ")
    for pattern, instead in MATCHES:
        for match in pattern.finditer(flat):
            yield text.count("\n", 0, match.start()) + 1, match[0].strip(), instead


def files(paths: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files to read."""
    for path in map(ROOT.joinpath, paths):
        yield from sorted(path.rglob("*.md")) if path.is_dir() else (path,)


def main() -> int:
    """Print every phrase that is refused; return the exit code."""
    failed = False
    for path in [Path(name) for name in sys.argv[1:]] or files(PATHS):
        for line, phrase, instead in sorted(found(path.read_text(encoding="utf-8"))):
            print(f'{path}:{line}: "{phrase}". Write: {instead}', file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
