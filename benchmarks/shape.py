"""Shape of the code: modules, long functions, many parameters, lines.

python benchmarks/shape.py [FOLDER]   (of a checkout; default: this one)
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("finetune", "recipes", "datasets_prep")
MOST_MODULES, MOST_LINES, MOST_PARAMETERS, MOST_ALIKE = 15, 60, 8, 2

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(root: Path) -> Iterator[tuple[str, Function]]:
    """Yield every function with its place."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, Function):
                    yield f"{path.relative_to(root)}: {node.name}", node


def num_lines(function: Function) -> int:
    """Return the lines of a function, signature and docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def num_parameters(function: Function) -> int:
    """Return the parameters of a function, without self and cls."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(each.arg not in ("self", "cls") for each in named)


def modules(folder: Path) -> list[Path]:
    """Return the Python modules of one folder, without `__init__`."""
    return sorted(path for path in folder.glob("*.py") if path.stem != "__init__")


def folders(root: Path) -> list[Path]:
    """Return all folders of packages and tests."""
    tops = [root / name for name in (*PACKAGES, "tests")]
    found = [path for top in tops for path in (top, *top.rglob("*")) if path.is_dir()]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def shared_prefixes(folder: Path) -> list[str]:
    """Return the prefixes that more than two modules of a folder share."""
    names = [path.stem for path in modules(folder) if not path.stem.startswith("test_")]
    counts = Counter(name.split("_")[0] for name in names if "_" in name)
    return [prefix for prefix, count in counts.items() if count > MOST_ALIKE]


def main() -> None:
    """Print the figures, and the places that are over a limit."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    found = list(functions(root))
    long = [(num_lines(node), place) for place, node in found if num_lines(node) > MOST_LINES]
    wide = [(num_parameters(node), place) for place, node in found if num_parameters(node) > MOST_PARAMETERS]
    full = [(len(modules(folder)), str(folder.relative_to(root))) for folder in folders(root)]
    alike = [(prefix, str(folder.relative_to(root))) for folder in folders(root) for prefix in shared_prefixes(folder)]
    print(f"most modules in a folder        {max(full)[0]:6d}  {max(full)[1]}")
    print(f"longest function, lines         {max(num_lines(node) for _, node in found):6d}")
    for name, places in (
        (f"functions over {MOST_LINES} lines", long),
        (f"functions over {MOST_PARAMETERS} parameters", wide),
        (f"folders over {MOST_MODULES} modules", [each for each in full if each[0] > MOST_MODULES]),
        ("prefixes that share a folder", alike),
    ):
        print(f"{name:31s} {len(places):6d}")
        for each in sorted(places, reverse=True):
            print("    ", *each)
    for name in (*PACKAGES, "tests", "benchmarks"):
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (root / name).rglob("*.py"))
        print(f"lines of {name:22s} {lines:6d}")


if __name__ == "__main__":
    main()
