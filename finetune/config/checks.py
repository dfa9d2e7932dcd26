"""The one checker of a config; torch-free. It checks bounds, rules, finite numbers and secrets, and reports every
problem at once. A section lists in `problems()` its own contradictions. A rule across sections is a function whose
parameters are named after the sections and options that it reads; each config class lists its rules."""

import inspect
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass
from typing import Protocol, cast, get_args, runtime_checkable

from finetune.config.drawing.options import read_notation
from finetune.config.facts import ActsWith, Bound, Mark, OneOf, Option, marked, options, values
from finetune.prompt_syntax import path_problems

Rules = tuple[Callable[..., Iterable[str]], ...]

SECRET_PATTERN = re.compile(
    r"hf_[A-Za-z0-9]{20,}|(?<!/)\b[0-9a-f]{40}\b|(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}|wandb_v\d_[A-Za-z0-9_]{20,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"  # GitHub, GitLab
    r"|\b(AKIA|ASIA)[A-Z0-9]{16}\b|AIza[A-Za-z0-9_-]{30,}|xox[abeoprs]-[A-Za-z0-9-]{10,}"  # AWS, Google, Slack
    r"|r8_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY"  # Replicate, keys
    r"|\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/@:]*:[^\s/@]+@"  # user:password@ in a URL
)
"""Forty hex digits are a W&B key, but behind a slash the commit in a Hub cache path such as .../snapshots/451f..."""
SECRET_VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "WANDB_API_KEY", "TRACKIO_TOKEN"),
    *("GITHUB_TOKEN", "GH_TOKEN", "GITLAB_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"),
)


@runtime_checkable
class Section(Protocol):
    """A section with rules between its own options."""

    def problems(self) -> Iterable[str]:
        """Name what contradicts within the section."""
        ...


def refuse(config: object, rules: Rules = ()) -> None:
    """Raise one ValueError that names every problem, each on a line."""
    secrets, given = secrets_in(config), vars(config)
    found = problems(config)
    for rule in rules:
        found += rule(**{name: given[name] for name in inspect.signature(rule).parameters})
    hidden = {line.partition(":")[0] for line in secrets}
    found = [line for line in found if line.partition(":")[0] not in hidden] + secrets  # others repeat the value
    for option, texts in prompts_of(config).items():
        found += path_problems(option, texts)
    if found:
        raise ValueError("\n".join(found))


def problems(config: object, section: str = "") -> list[str]:
    """List what is wrong with single options and within sections. `section` is the name of a single one."""
    prefix = section and f"{section}."
    found: list[str] = []
    given = dict(values(config, prefix))
    for option in options(type(config), prefix):
        found += wrong_value(option, given)
    for part in (config, *vars(config).values()):
        if is_dataclass(part) and isinstance(part, Section):
            found += part.problems()
    return found


def wrong_value(option: Option, given: dict[str, object]) -> Iterator[str]:
    """Yield which fact of an option its value does not fit."""
    key, value = option.key, given[option.key]
    if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and Mark.ENDLESS not in option.marks)):
        yield f"{key}: got {value}, expected a finite number."
        return
    for bound in option.of(Bound):
        if value is not None and not bound.accepts(value):
            none = ", or none" if type(None) in get_args(option.hint) else ""
            yield f"{key}: got {shown(value)}, expected {bound.expected}{none}{bound.hint and f'; {bound.hint}'}."
    for fact in option.of(ActsWith):
        other = f"{key.rpartition('.')[0]}.{fact.other}"
        if given[other] not in fact.values and value != option.default:
            got, has, can = shown(value), shown(given[other]), " or ".join(map(shown, fact.values))
            yield f"{key}: got {got} with {other} {has}, but it acts only with {can}. Remove it, or change {other}."
    for fact in option.of(OneOf):
        other = f"{key.rpartition('.')[0]}.{fact.other}"
        if value is None and not given[other]:
            yield f"{key}: missing, expected text. Give --{key} or set it in the YAML file, or several with {other}."
        if value is not None and given[other]:
            yield f"{key}: got {shown(value)} beside {other}, expected one of both. Add it to {other}, or remove it."


def shown(value: object) -> str:
    """Return a value as it is given."""
    if isinstance(value, tuple):
        return " ".join(texts_of(cast("object", value))).strip() or "nothing"
    if isinstance(value, str):
        return value if value.isprintable() and value.strip() else repr(value) if value else "an empty text"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def prompts_of(config: object) -> dict[str, list[str]]:
    """Return the texts of options that contain prompts or a caption template. Prompts are without their options."""
    given, listed = dict(values(config)), marked(type(config), Mark.PROMPT_LIST)
    found: dict[str, list[str]] = {}
    for key in marked(type(config), Mark.PROMPT):
        texts = texts_of(given[key])
        if key in listed:
            read = [read_notation(text)[0] for text in texts]
            texts = [text for options in read for text in (options.prompt, options.negative_prompt or "")]
        found[key] = [text for text in texts if text]
    return found


def texts_of(value: object) -> list[str]:
    """Return the parts of a value as texts; none has no parts."""
    parts = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
    return [str(part) for part in parts if part is not None]


def secrets_in(config: object) -> list[str]:
    """Name every option that contains an access token. It would reach config.yaml and dashboards."""
    known = [os.environ[variable] for variable in SECRET_VARIABLES if len(os.environ.get(variable, "")) >= 8]
    commits, found = marked(type(config), Mark.COMMIT), list[str]()
    for key, value in values(config):
        texts = texts_of(value)
        looks_secret = key not in commits and any(SECRET_PATTERN.search(text) for text in texts)
        if looks_secret or any(secret in text for secret in known for text in texts):
            found.append(
                f"{key}: holds an access token or password, which would be written to files. Remove it; use "
                "`hf auth login`, `wandb login` or an environment variable."
            )
    return found
