"""A small server of captions that speaks as OpenAI's does."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.http_server import QuietHandler, serving


@dataclass
class CaptionServer:
    """Requests that the server saw, and its next answers."""

    url: str = ""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next answers."""
    afterwards: int = 200
    """The status of all further ones."""
    content: Callable[[dict[str, Any]], str | None] = lambda request: "a red square"
    """What it says to a request."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    num_hangs: int = 0
    together: threading.Barrier | None = None
    """Holds the first answers back until as many requests are there."""
    num_together: int = 10**9
    """How many answers it holds back."""
    most_in_flight: int = 0
    in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving_captions() -> Iterator[CaptionServer]:
    """Serve while its context lasts."""
    state, released = CaptionServer(), threading.Event()

    class Answers(QuietHandler):
        def do_GET(self) -> None:
            self.send(200, {}, b'{"data": [{"id": "tiny-vl"}]}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.requests.append(body)
                state.keys.append(self.headers["Authorization"])
                state.in_flight += 1
                state.most_in_flight = max(state.most_in_flight, state.in_flight)
                status, headers = state.answers.pop(0) if state.answers else (state.afterwards, {})
                waits = len(state.requests) <= state.num_together
                hangs = state.num_hangs > 0
                state.num_hangs -= hangs
            if hangs:
                released.wait(10)
            if state.together and waits:
                state.together.wait(30)
            with state.lock:
                state.in_flight -= 1
            choice = {"message": {"content": state.content(body)}, "finish_reason": "stop"}
            answer = {"choices": [choice], "usage": {"completion_tokens": 3}, "error": "why"}
            self.send(status, headers, json.dumps(answer).encode())

    with serving(Answers) as address:
        state.url = f"{address}/v1"
        yield state
        released.set()
