"""Pages served on this machine alone, which answer to themselves only. Torch-free."""

import hmac
import json
import re
import secrets
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Protocol
from urllib.parse import parse_qs, urlsplit

from finetune.json_text import parse_json

ADDRESS = "127.0.0.1"
MOST_BODY_BYTES = 200_000


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    body: bytes
    kind: str
    status: HTTPStatus = HTTPStatus.OK


class LocalPage(Protocol):
    """A page and its requests. They come from several threads."""

    name: str
    """As in "this review answers to its own page only"."""
    posts: frozenset[str]
    """Paths that take JSON."""

    def get(self, path: str) -> Answer:
        """Answer a request for a path."""
        ...

    def post(self, path: str, value: object) -> Answer:
        """Take JSON that was sent to a path. A ValueError is a refusal with its sentence."""
        ...


def served_policy(policy: str) -> str:
    """Allow a page to request from its own server alone."""
    return policy.replace("img-src data:", "connect-src 'self'; img-src 'self' data:")


def json_answer(value: object) -> Answer:
    """Answer with JSON."""
    return Answer(json.dumps(value).encode("ascii"), "application/json")


def sentence(status: HTTPStatus, text: str) -> Answer:
    """Answer with a sentence."""
    return Answer(text.encode("utf-8", "replace"), "text/plain; charset=utf-8", status)


def not_found() -> Answer:
    """Answer that there is no such page."""
    return sentence(HTTPStatus.NOT_FOUND, "there is no such page")


class LocalServer(ThreadingHTTPServer):
    """The server of a page; requests need the token in `url`."""

    daemon_threads = True

    def __init__(self, page: LocalPage, port: int = 0) -> None:
        self.local_page, self.token = page, secrets.token_urlsafe(24)
        try:
            super().__init__((ADDRESS, port), _Request)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "a port is 0 to 65535"
            raise ValueError(
                f"port: {port} cannot be used ({reason}). Give another, or none to have a free one chosen."
            ) from None
        self.hosts = {f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}"}
        self.url = f"http://{ADDRESS}:{self.server_port}/?token={self.token}"

    def serve_until_interrupted(self) -> None:
        """Serve until Ctrl-C."""
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            self.server_close()


class _Request(BaseHTTPRequestHandler):
    """One request, which needs the token. Browsers that another site led here are refused."""

    timeout = 30  # seconds that a client may be silent
    protocol_version = "HTTP/1.1"
    server_version = "local_page"
    sys_version = ""
    common: ClassVar[dict[str, str]] = {
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Resource-Policy": "same-origin",
    }

    @property
    def _local(self) -> LocalServer:
        assert isinstance(self.server, LocalServer)
        return self.server

    def do_GET(self) -> None:
        path = self._allowed_path()
        if path is not None:
            self._send(self._local.local_page.get(path))

    def do_POST(self) -> None:
        path = self._allowed_path()
        if path is None:
            return
        if path not in self._local.local_page.posts:
            self._send(not_found())
            return
        if self.headers.get_content_type() != "application/json":
            self._send(sentence(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json"))
            return
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,12}", length):
            self._send(sentence(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length"))
            return
        if int(length) > MOST_BODY_BYTES:
            text = f"expected at most {MOST_BODY_BYTES:,} bytes"
            self._send(sentence(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text))
            return
        self._send(self._taken(path, self.rfile.read(int(length))))

    def _taken(self, path: str, body: bytes) -> Answer:
        try:
            return self._local.local_page.post(path, parse_json(body))
        except ValueError as error:
            is_json = not isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
            return sentence(HTTPStatus.BAD_REQUEST, str(error) if is_json else "expected JSON")

    def _allowed_path(self) -> str | None:
        """Return the requested path; None where the request was refused. The host distinguishes a page of this server
        from another site whose name points to this machine."""
        origin, name = self.headers.get("Origin"), self._local.local_page.name
        if self.headers.get("Host") not in self._local.hosts or (
            origin is not None and origin not in {f"http://{host}" for host in self._local.hosts}
        ):
            self._send(sentence(HTTPStatus.FORBIDDEN, f"this {name} answers to its own page only"))
            return None
        parts = urlsplit(self.path)
        token = self.headers.get("X-Token") or parse_qs(parts.query).get("token", [""])[0]
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._local.token.encode()):
            text = f"open the whole address that the {name} printed, with its token"
            self._send(sentence(HTTPStatus.FORBIDDEN, text))
            return None
        return parts.path

    def _send(self, answer: Answer) -> None:
        if answer.status != HTTPStatus.OK:
            self.close_connection = True  # the body of a refused request was not read
        self.send_response(answer.status)
        head = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        for name, value in {**self.common, **head}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class names it so
        """Log nothing: the terminal is for the user."""
