"""Requests to a server of a local page."""

import contextlib
import http.client
import threading
from collections.abc import Iterator, Mapping
from typing import TypeVar

from finetune.processes.local_page import LocalServer

Server = TypeVar("Server", bound=LocalServer)
Headers = Mapping[str, str | None] | None


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Serve on a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(
    server: LocalServer, method: str, path: str, body: bytes | None = None, headers: Headers = None
) -> tuple[int, bytes]:
    """Return status and body; headers replace the usual, None omits."""
    usual = {"Host": f"127.0.0.1:{server.server_port}", "X-Token": server.token, "Content-Type": "application/json"}
    usual |= {"Content-Length": str(len(body))} if body is not None else {}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {**usual, **(headers or {})}.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    result = answer.status, answer.read()
    connection.close()
    return result
