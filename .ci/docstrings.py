"""Check that docstrings begin with a short, plain sentence.

python3 .ci/docstrings.py [FILE ...]
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from phrases import files

PATHS = (".ci", "benchmarks", "datasets_prep", "finetune", "recipes", "tests", "tools")
MOST_WORDS = 12
BEGINNINGS = re.compile(
    r"(Adds|Finds|Gives|Keeps|Makes|Opens|Prints|Raises|Reads|Refuses|Removes|Returns|Writes|Yields|What|Whether)\b"
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def first_sentence(docstring: str) -> str:
    """Return the first sentence of a docstring's first paragraph."""
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) ", paragraph)[0]


def faults(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the fault of first sentences in a module."""
    for node in ast.walk(ast.parse(text)):
        docstring = ast.get_docstring(node) if isinstance(node, DOCUMENTED) else None
        if docstring is None:
            continue
        sentence, line = first_sentence(docstring), getattr(node, "lineno", 1)
        num_words = len(re.sub(r"\[[^]]*\]", "", sentence).split())  # [N H W 3] is a shape, no words
        if num_words > MOST_WORDS:
            yield line, f'"{sentence}" has {num_words} words, expected at most {MOST_WORDS}'
        if BEGINNINGS.match(sentence):
            yield line, f'"{sentence}" is neither an imperative nor a noun phrase'


def main() -> int:
    """Print every fault; return the exit code."""
    failed = False
    for path in [Path(name) for name in sys.argv[1:]] or files(PATHS):
        for line, fault in faults(path.read_text(encoding="utf-8")) if path.suffix == ".py" else ():
            print(f"{path}:{line}: {fault}.", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
