"""The blind page: a pair at a time, without names. Torch-free."""

import io
import threading
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import Any, cast

from markupsafe import Markup
from PIL import Image

from finetune.processes.local_page import Answer, json_answer, not_found, sentence, served_policy
from finetune.rate.pairs import Pair
from finetune.rate.result import Result, count_votes
from finetune.rate.votes import VOTES, Preferred, Vote, append_line, vote_line
from finetune.report.page import around, templates

SIDES = ("left", "right")


class RatePage:
    """The page of a comparison, and its votes."""

    name = "comparison"
    posts = frozenset({"/votes", "/undo"})

    def __init__(
        self, pairs: Sequence[Pair], votes: Mapping[str, Preferred], path: Path, *, first: str, second: str
    ) -> None:
        self._pairs, self._path, self._names = {pair.key: pair for pair in pairs}, path, (first, second)
        self._votes, self._lock = dict(votes), threading.Lock()
        self._page = page_bytes()

    def result(self) -> Result:
        """Count the votes."""
        return count_votes(list(self._pairs.values()), self._votes, *self._names)

    def get(self, path: str) -> Answer:
        if path == "/":
            return Answer(self._page, "text/html; charset=utf-8")
        if path == "/state":
            with self._lock:
                return json_answer(self._state())
        start, _, rest = path.removeprefix("/").partition("/")
        key, _, side = rest.partition("/")
        if start != "image" or key not in self._pairs or side not in SIDES:
            return not_found()
        return image_answer(vars(self._pairs[key])[side].path)

    def post(self, path: str, value: object) -> Answer:
        with self._lock:
            try:
                if path == "/undo":
                    self._undo()
                else:
                    self._vote(value)
            except OSError as error:
                return sentence(HTTPStatus.INSUFFICIENT_STORAGE, str(error))
            return json_answer(self._state())

    def _vote(self, value: object) -> None:
        given = cast("dict[str, object]", value) if isinstance(value, dict) else {}
        pair, vote = self._pairs.get(str(given.get("pair"))), given.get("vote")
        if pair is None or vote not in VOTES:
            raise ValueError("expected the pair that is shown, and left, right or none")
        if pair.key in self._votes:
            raise ValueError("this pair has its vote already; load the page again")
        row = vote_line(pair, cast("Vote", vote))
        append_line(self._path, row)
        self._votes[pair.key] = row["preferred"]

    def _undo(self) -> None:
        if not self._votes:
            raise ValueError("there is no vote to take back")
        key = list(self._votes)[-1]
        append_line(self._path, {"pair": key, "undone": True})
        del self._votes[key]

    def _state(self) -> dict[str, Any]:
        """Describe what the page shows. The targets are named at the end only."""
        pair = next((pair for pair in self._pairs.values() if pair.key not in self._votes), None)
        result = self.result() if pair is None else None
        return {
            "pair": pair and {"id": pair.key, "prompt": pair.prompt},
            "done": len(self._votes),
            "total": len(self._pairs),
            "result": result and [*result.sentences()],
            "prompts": [vars(each) for each in result.prompts] if result else [],
        }


def page_bytes() -> bytes:
    """Write the page. It runs its own script alone, and requests from its server alone."""
    assets = resources.files("finetune").joinpath("assets")
    parts = around(
        "Which image is better?",
        style=assets.joinpath("rate.css").read_text(encoding="utf-8"),
        script=assets.joinpath("rate.js").read_text(encoding="utf-8"),
    )
    parts["policy"] = Markup(served_policy(parts["policy"]))
    return templates().get_template("rate.html").render(parts).encode()


def image_answer(path: Path) -> Answer:
    """Send the pixels of an image. Its metadata would name the target."""
    try:
        with Image.open(path) as image:
            pixels, data = image.convert("RGB"), io.BytesIO()
    except (OSError, ValueError) as error:
        return sentence(HTTPStatus.NOT_FOUND, f"the image cannot be read: {error}")
    pixels.info.clear()
    pixels.save(data, "PNG", compress_level=1)
    return Answer(data.getvalue(), "image/png")
