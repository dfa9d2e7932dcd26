"""The review of a prepared folder, served on this machine alone. Decisions are appended to decisions.jsonl."""

import threading
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path

from datasets_prep.decisions import append_decision, checked, read_lines
from datasets_prep.review.folder import known_images, served_page
from finetune.data.listing import Findings
from finetune.plurals import plural
from finetune.processes.local_page import Answer, LocalServer, json_answer, not_found, sentence

TYPES = {f".{kind}": f"image/{kind}" for kind in ("jpeg", "png", "webp", "gif", "avif", "bmp")}
TYPES |= {".jpg": "image/jpeg", ".ico": "image/x-icon"}
"""Types that browsers show; for others the page shows its small image."""


def serve(prepared_folder: Path, port: int = 0) -> None:
    """Serve the report until Ctrl-C. Raises ValueError or OSError where there is none or the port is taken."""
    server = ReviewServer(prepared_folder, port)
    for warning in server.warnings:
        print(f"Note: {warning}")
    print(f"Review {prepared_folder} at\n  {server.url}\nCtrl-C ends it.", flush=True)
    server.serve_until_interrupted()
    num = server.num_written
    print(
        f"\n{plural(num, 'decision')} written to {prepared_folder / 'decisions.jsonl'}. To apply "
        f"{'it' if num == 1 else 'them'}, prepare again: python -m datasets_prep --source SOURCE --output "
        f"{prepared_folder}"
    )


class ReviewServer(LocalServer):
    """The server of a review."""

    def __init__(self, prepared_folder: Path, port: int = 0) -> None:
        self._review = Review(prepared_folder)
        self.warnings = self._review.warnings
        super().__init__(self._review, port)

    @property
    def lines(self) -> list[Mapping[str, object]]:
        return self._review.lines

    @property
    def num_written(self) -> int:
        return self._review.num_written


class Review:
    """The page of a review with its images and decisions."""

    name = "review"
    posts = frozenset({"/decisions"})

    def __init__(self, prepared_folder: Path) -> None:
        self._page = served_page(prepared_folder)
        self._known = known_images(prepared_folder, self._page)
        self.num_written = 0
        self._path = prepared_folder / "decisions.jsonl"
        self._lock = threading.Lock()
        findings = Findings()
        self._lines = [asdict(line) for line in read_lines(self._path, findings) if line.sha256 in self._known]
        self.warnings = findings.warnings

    @property
    def lines(self) -> list[Mapping[str, object]]:
        with self._lock:
            return list(self._lines)

    def get(self, path: str) -> Answer:
        if path == "/":
            return Answer(self._page, "text/html; charset=utf-8")
        if path == "/decisions":
            return json_answer(self.lines)
        return self._image(path.removeprefix("/picture/")) if path.startswith("/picture/") else not_found()

    def post(self, path: str, value: object) -> Answer:
        try:
            self._decide(value)
        except OSError as error:
            text = f"decisions.jsonl cannot be written: {error.strerror}"
            return sentence(HTTPStatus.INSUFFICIENT_STORAGE, text)
        return json_answer({})

    def _decide(self, line: object) -> None:
        """Store a decision. Raises ValueError if it is not about an image of the page."""
        decision = checked(line)
        if decision.sha256 not in self._known:
            raise ValueError("sha256 belongs to no image of this report")
        own = {"sha256": decision.sha256, "source": self._known[decision.sha256].source}
        decision = checked({**asdict(decision), **own})  # the name is the folder's, not what a request says
        with self._lock:
            append_decision(self._path, decision)
            self._lines.append(asdict(decision))
            self.num_written += 1

    def _image(self, sha256: str) -> Answer:
        known = self._known.get(sha256)
        if known is None or known.path is None or known.path.suffix.lower() not in TYPES:
            return sentence(HTTPStatus.NOT_FOUND, "there is no such image here, or none that browsers show")
        try:
            return Answer(known.path.read_bytes(), TYPES[known.path.suffix.lower()])
        except OSError as error:
            return sentence(HTTPStatus.NOT_FOUND, f"the image cannot be read: {error.strerror}")
