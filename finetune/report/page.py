"""The page around a report: one file without requests; light and dark. It runs no script but its own."""

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from finetune.files import aside

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Forbids browsers to load anything or run any script on the page, whatever it contains."""


@cache
def templates(*packages: str) -> Environment:
    """Return the templates of `PACKAGE/report/templates`, then of this package. All text but `Markup` is escaped."""
    loaders = [PackageLoader(package, "report/templates") for package in (*packages, "finetune")]
    return Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def asset(name: str) -> str:
    """Return a style or script of this package's pages."""
    return (resources.files("finetune") / "report" / "templates" / name).read_text(encoding="utf-8")


def around(title: str, *, style: str = "", script: str = "") -> dict[str, str]:
    """Return the parts of page.html beside its body. `style` is added to the style sheet. Browsers run `script` alone,
    because the page contains its hash."""
    policy = POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        policy = f"{POLICY}; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return {"title": title, "policy": Markup(policy), "style": Markup(style), "script": Markup(script)}


def write_page(path: Path, pieces: Iterable[str]) -> None:
    """Replace the file in one step. Characters outside UTF-8 (undecodable file names) become question marks."""
    temporary = aside(path)
    with temporary.open("wb") as file:
        for piece in pieces:
            file.write(piece.encode("utf-8", "replace"))
    temporary.replace(path)
