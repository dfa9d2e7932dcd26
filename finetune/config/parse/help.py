"""Short and full help of a command; torch-free."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

from finetune.config.facts import OneOf, options
from finetune.config.folders import TrainingFolder
from finetune.config.parse.convert import described
from finetune.processes.streams import let_readers_leave

if TYPE_CHECKING:
    from tyro.constructors import PrimitiveConstructorSpec

FIRST = (
    *("model.source", "data.folder", "output.folder", "instance.prompt", "prior.prompt", "goal", "data.resolution"),
    *("train.steps", "train.batch_size", "optim.lr", "lora.rank", "preview.prompts", "tokens.names", "stage"),
)
"""The options that matter first, in their order. A recipe's help shows the first ten that it has."""
NUM_FIRST = 10
CONFIG_HELP = "YAML file or name of a preset; flags win over what it says."


def print_help(kind: type, program: str) -> NoReturn:
    """Print all options with their help, including `--config`, and exit."""
    import tyro

    let_readers_leave()
    file = Annotated[Path | None, tyro.conf.arg(help=CONFIG_HELP)]
    field = ("config", file, dataclasses.field(default=None, kw_only=True))
    shown = dataclasses.make_dataclass("Options", [field], bases=(kind,), frozen=True)
    shown.__doc__ = kind.__doc__
    registry: Any = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_entry_rule)
    with registry:
        tyro.cli(shown, prog=program, args=["--help"], use_underscores=True, config=(tyro.conf.FlagConversionOff,))
    raise SystemExit(0)


def _entry_rule(info: Any) -> "PrimitiveConstructorSpec[Any] | None":
    """Describe entries of a list of options as one text each."""
    from tyro.constructors import PrimitiveConstructorSpec

    if info.type is not TrainingFolder:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FOLDER",
        instance_from_str=lambda texts: TrainingFolder(texts[0]),
        is_instance=lambda value: isinstance(value, TrainingFolder),
        str_from_instance=lambda value: [value.folder],
    )


def print_first(kind: type, program: str) -> NoReturn:
    """Print the options that matter first, and exit."""
    let_readers_leave()
    print(*first_lines(kind, program), sep="\n")
    raise SystemExit(0)


def first_lines(kind: type, program: str) -> Iterator[str]:
    """Yield the lines of the short help."""
    known = {option.key: option for option in options(kind)}
    texts = help_texts(kind)
    yield f"usage: python -m {program} [--config FILE] [--OPTION VALUE ...]"
    yield ""
    yield textwrap.fill(" ".join((kind.__doc__ or "").split()), 100)
    yield ""
    yield from _described("--config FILE", f"{CONFIG_HELP} finetune presets lists them.")
    for key in [key for key in FIRST if key in known][:NUM_FIRST]:
        option = known[key]
        default = "required" if option.is_required or option.of(OneOf) else f"default: {_written(option.default)}"
        yield from _described(f"--{key}", f"{texts[key]} ({described(option.hint)}; {default})")
    yield ""
    plan = f"finetune plan {program.rpartition('.')[2]} OPTIONS"
    yield f"--help-all shows all {len(known)} options."
    yield f"{plan} shows what a run would do, and trains nothing."
    yield "finetune import reads the configs of other trainers."


def _described(name: str, text: str) -> list[str]:
    return [f"  {name}", *textwrap.wrap(text, 100, initial_indent="      ", subsequent_indent="      ")]


def _written(value: object) -> str:
    """Return a default as it is written on the command line."""
    if value is dataclasses.MISSING or value is None or value == ():
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def help_texts(kind: type, prefix: str = "") -> dict[str, str]:
    """Return the help of every option: the text below its field."""
    found: dict[str, str] = {}
    for each in reversed([part for part in kind.__mro__ if dataclasses.is_dataclass(part)]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for item, below in zip(tree.body, [*tree.body[1:], None], strict=True):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(text, ast.Constant):
                    found[f"{prefix}{item.target.id}"] = " ".join(str(text.value).split())
    for name, hint in get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found |= help_texts(hint, f"{prefix}{name}.")
    return found
