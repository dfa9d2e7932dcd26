"""The review of a prepared folder, served on this machine alone. Decisions are appended to decisions.jsonl."""

import hmac
import json
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from datasets_prep.decisions import append_decision, checked, read_lines
from datasets_prep.review.folder import known_images, served_page
from finetune.data.listing import Findings
from finetune.json_text import parse_json
from finetune.plurals import plural

ADDRESS = "127.0.0.1"
MOST_BODY_BYTES = 200_000
TYPES = {f".{kind}": f"image/{kind}" for kind in ("jpeg", "png", "webp", "gif", "avif", "bmp")}
TYPES |= {".jpg": "image/jpeg", ".ico": "image/x-icon"}
"""Types that browsers show; for others the page shows its small image."""


def serve(prepared_folder: Path, port: int = 0) -> None:
    """Serve the report until Ctrl-C. Raises ValueError or OSError where there is none or the port is taken."""
    server = ReviewServer(prepared_folder, port)
    for warning in server.warnings:
        print(f"Note: {warning}")
    print(f"Review {prepared_folder} at\n  {server.url}\nCtrl-C ends it.", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    num = server.num_written
    print(
        f"\n{plural(num, 'decision')} written to {prepared_folder / 'decisions.jsonl'}. To apply "
        f"{'it' if num == 1 else 'them'}, prepare again: python -m datasets_prep --source SOURCE --output "
        f"{prepared_folder}"
    )


class ReviewServer(ThreadingHTTPServer):
    """The server; requests need the token in `url`."""

    daemon_threads = True

    def __init__(self, prepared_folder: Path, port: int = 0) -> None:
        self.page = served_page(prepared_folder)
        self.known = known_images(prepared_folder, self.page)
        self.token = secrets.token_urlsafe(24)
        self.num_written = 0
        self._path = prepared_folder / "decisions.jsonl"
        self._lock = threading.Lock()
        findings = Findings()
        self._lines = [asdict(line) for line in read_lines(self._path, findings) if line.sha256 in self.known]
        self.warnings = findings.warnings
        try:
            super().__init__((ADDRESS, port), _Request)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "a port is 0 to 65535"
            raise ValueError(
                f"port: {port} cannot be used ({reason}). Give another, or none to have a free one chosen."
            ) from None
        self.hosts = {f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}"}
        self.url = f"http://{ADDRESS}:{self.server_port}/?token={self.token}"

    @property
    def lines(self) -> list[Mapping[str, object]]:
        with self._lock:
            return list(self._lines)

    def decide(self, line: object) -> None:
        """Store a decision. Raises ValueError if it is not about an image of the page."""
        decision = checked(line)
        if decision.sha256 not in self.known:
            raise ValueError("sha256 belongs to no image of this report")
        own = {"sha256": decision.sha256, "source": self.known[decision.sha256].source}
        decision = checked({**asdict(decision), **own})  # the name is the folder's, not what a request says
        with self._lock:
            append_decision(self._path, decision)
            self._lines.append(asdict(decision))
            self.num_written += 1


class _Request(BaseHTTPRequestHandler):
    """One request, which needs the token. Browsers that another site led here are refused."""

    timeout = 30  # seconds that a client may be silent
    protocol_version = "HTTP/1.1"
    server_version = "datasets_prep"
    sys_version = ""
    common: ClassVar[dict[str, str]] = {
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Resource-Policy": "same-origin",
    }

    @property
    def _review(self) -> ReviewServer:
        assert isinstance(self.server, ReviewServer)
        return self.server

    def do_GET(self) -> None:
        path = self._allowed_path()
        if path is None:
            return
        if path == "/":
            self._answer(HTTPStatus.OK, self._review.page, "text/html; charset=utf-8")
        elif path == "/decisions":
            self._answer(HTTPStatus.OK, json.dumps(self._review.lines).encode("ascii"), "application/json")
        elif path.startswith("/picture/"):
            self._send_image(path.removeprefix("/picture/"))
        else:
            self._say(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        path = self._allowed_path()
        if path is None:
            return
        if path != "/decisions":
            self._say(HTTPStatus.NOT_FOUND, "there is no such page")
            return
        if self.headers.get_content_type() != "application/json":
            self._say(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
            return
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,12}", length):
            self._say(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
            return
        if int(length) > MOST_BODY_BYTES:
            self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {MOST_BODY_BYTES:,} bytes")
            return
        self._decide(self.rfile.read(int(length)))

    def _decide(self, body: bytes) -> None:
        try:
            self._review.decide(parse_json(body))
        except ValueError as error:
            is_json = not isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
            self._say(HTTPStatus.BAD_REQUEST, str(error) if is_json else "expected JSON")
        except OSError as error:
            self._say(HTTPStatus.INSUFFICIENT_STORAGE, f"decisions.jsonl cannot be written: {error.strerror}")
        else:
            self._answer(HTTPStatus.OK, b"{}", "application/json")

    def _allowed_path(self) -> str | None:
        """Return the requested path; None where the request was refused. The host distinguishes a page of this server
        from another site whose name points to this machine."""
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in self._review.hosts or (
            origin is not None and origin not in {f"http://{host}" for host in self._review.hosts}
        ):
            self._say(HTTPStatus.FORBIDDEN, "this review answers to its own page only")
            return None
        parts = urlsplit(self.path)
        token = self.headers.get("X-Token") or parse_qs(parts.query).get("token", [""])[0]
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._review.token.encode()):
            self._say(HTTPStatus.FORBIDDEN, "open the whole address that the review printed, with its token")
            return None
        return parts.path

    def _send_image(self, sha256: str) -> None:
        known = self._review.known.get(sha256)
        if known is None or known.path is None or known.path.suffix.lower() not in TYPES:
            self._say(HTTPStatus.NOT_FOUND, "there is no such image here, or none that browsers show")
            return
        try:
            data = known.path.read_bytes()
        except OSError as error:
            self._say(HTTPStatus.NOT_FOUND, f"the image cannot be read: {error.strerror}")
        else:
            self._answer(HTTPStatus.OK, data, TYPES[known.path.suffix.lower()])

    def _say(self, status: HTTPStatus, sentence: str) -> None:
        self.close_connection = True  # the body of a refused request was not read
        self._answer(status, sentence.encode("utf-8", "replace"), "text/plain; charset=utf-8")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**self.common, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class names it so
        """Log nothing: the terminal is for the user."""
