"""Options of another trainer as ours, by its table; torch-free."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from finetune.config.checks import SECRET_PATTERN
from finetune.config.parse.convert import entry_text
from finetune.config.trainers.shell_lists import CONDITIONAL
from finetune.config.trainers.tables import LAUNCH, Row, is_off, matches, spelled_value
from finetune.config.trainers.values import DEFERRED, HANDLED, NoCounterpartError, convert_value, remark
from finetune.imports.given import Given

NOT_NEEDED = "not needed."
OF_DEFAULT = ", its default there"
SECRET_NAME = re.compile(r"token$|secret|password|api_key|access_key", re.IGNORECASE)
PRECISIONS = {
    **dict.fromkeys(("bf16", "bfloat16", "bfloat_16"), "bf16"),
    **dict.fromkeys(("fp16", "float16", "float_16"), "fp16"),
    **dict.fromkeys(("no", "fp32", "float32", "float_32", "tfloat_32", "float"), "no"),
}


@dataclass
class Translation:
    """Our options, and what the user must know."""

    settings: dict[str, object] = field(default_factory=dict[str, object])
    origins: dict[str, str] = field(default_factory=dict[str, str])
    """Their option of each of ours."""
    launch: dict[str, str] = field(default_factory=dict[str, str])
    same: list[str] = field(default_factory=list[str])
    differs: list[str] = field(default_factory=list[str])
    absent: list[str] = field(default_factory=list[str])
    unknown: list[str] = field(default_factory=list[str])
    idle: list[str] = field(default_factory=list[str])
    """Their options that say what is so here anyway."""
    deferred: list[tuple[str, Row, object]] = field(default_factory=list[tuple[str, Row, object]])
    """What waits for the length of the run."""

    def put(
        self, found: Mapping[str, object], key: str, text: str, differs: str = "", is_default: bool = False
    ) -> None:
        """Take settings over, with a line about them."""
        for ours, value in found.items():
            before = self.origins.get(ours)
            if before not in (None, key) and not alike(self.settings[ours], value) and "{caption}" not in str(value):
                self.differs.append(f"{before}, {key}: both are {ours} here; {key} is taken.")
            self.settings[ours], self.origins[ours] = value, key
        if not found:
            self.idle.append(key)
            return
        ours = ", ".join(f"{name} {shown(value)}" for name, value in found.items())
        line = f"{text} -> {ours}{OF_DEFAULT if is_default else ''}"
        (self.differs if differs else self.same).append(f"{line}: {differs}" if differs else line)


def translate(given: Given) -> Translation:
    """Apply the trainer's table to its options, then to its defaults."""
    found = Translation()
    is_flow = is_flow_matching(given)
    for key, value in given.options.items():
        rows = given.table.rows(key)
        if key == CONDITIONAL:
            found.absent.append(f"{value}: the file's conditions are not evaluated. Give ours where they hold.")
        elif not rows:
            found.unknown.append(f"{key} {hidden(key, value)}")
        if not rows:
            continue
        row = next((row for row in rows if fits(row, given, is_flow)), None)
        if row is None or value in (None, ""):
            found.idle.append(key)
        else:
            _take(found, key, row, value)
    for key, row in _defaults(given, is_flow):
        if str(row.to).startswith("preview.") and not found.settings.get("preview.prompts"):
            continue
        if row.default == {}:
            found.differs.append(f"{key} not given: {row.differs}")
        elif isinstance(row.default, Mapping):
            new = {ours: value for ours, value in row.default.items() if ours not in found.settings}
            found.put(new, key, f"{key} not given", row.differs, is_default=True)
        elif row.to not in found.settings and not any(each.to == row.to for _, each, _ in found.deferred):
            _take(found, key, row, row.default, is_default=True)
    given_words = set(given.options)
    for theirs, ours in given.table.unsaid.items():
        if not given_words & {word.strip() for word in theirs.split(",")}:
            found.differs.append(f"{theirs} not given: the default depends on the script; that of {ours} is used.")
    return found


def is_flow_matching(given: Given) -> bool:
    """Tell if their options name a model of flow matching."""
    return any(matches(given.options, key, values) for key, values in given.table.flow.items())


def fits(row: Row, given: Given, is_flow: bool) -> bool:
    """Check whether a row acts in this config."""
    return (
        row.holds(given.options)
        and (not row.methods or given.method in row.methods)
        and (not row.recipes or given.recipe in row.recipes)
        and (is_flow or not row.flow)
    )


def _defaults(given: Given, is_flow: bool) -> Iterator[tuple[str, Row]]:
    """Yield the rows of missing options that have defaults of their own."""
    for key, rows in given.table.options.items():
        if key not in given.options:
            row = next((row for row in rows if fits(row, given, is_flow)), None)
            if row is not None and row.default is not None:
                yield key, row


def _take(found: Translation, key: str, row: Row, value: object, is_default: bool = False) -> None:
    """Translate one option."""
    text = f"{key} {'' if is_default and row.secret else hidden(key, value, row.secret)}"
    if row.conversion == HANDLED:
        return
    if row.launch is not None:
        _launched(found, key, row.launch, value, is_default)
    elif row.conversion in DEFERRED:
        found.deferred.append((key, row, value))
    elif row.to is None and row.values is None and row.conversion == "":
        if is_off(value) or row.none == NOT_NEEDED:
            found.idle.append(key)
        else:
            found.absent.append(f"{text}{OF_DEFAULT if is_default else ''}: {row.none}")
    else:
        try:
            ours = convert_value(row, value, found.settings)
            of_value = row.differs_for.get(spelled_value(value), "")
            differs = of_value or ("" if all(map(is_off, ours.values())) else row.differs) or remark(row, value)
            found.put(ours, key, text, differs, is_default)
        except NoCounterpartError as error:
            if is_off(value):
                found.idle.append(key)
            else:
                kept = "" if row.to is None else f" {row.to} keeps its default."
                found.absent.append(f"{text}{OF_DEFAULT if is_default else ''}: {error}{kept}")


def _launched(found: Translation, key: str, option: str, value: object, is_default: bool) -> None:
    """Translate an option that is the launcher's here."""
    text = PRECISIONS.get(str(value).lower()) if option == "mixed_precision" else str(value)
    if text is None:
        found.absent.append(f"{key} {value}: mixed precision is no, fp16 or bf16, an option of accelerate {LAUNCH}.")
        return
    found.launch[option] = text
    found.same.append(f"{key} {value} -> accelerate {LAUNCH} --{option} {text}{OF_DEFAULT if is_default else ''}")


def alike(one: object, other: object) -> bool:
    """Compare values, also numbers that are written in other ways."""
    try:
        return float(str(one)) == float(str(other))
    except ValueError:
        return one == other


def shown(value: object) -> str:
    """Return a value of ours as it is written."""
    if isinstance(value, list):
        return " ".join(map(entry_text, value)) or "(none)"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def hidden(key: str, value: object, is_secret: bool = False) -> str:
    """Return a value of theirs in short. Secrets are not shown."""
    text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    if is_secret or SECRET_NAME.search(key) or SECRET_PATTERN.search(text):
        return "(hidden)"
    text = "".join(letter for letter in text if letter.isprintable())
    return text if len(text) <= 80 else f"{text[:77]}..."
