"""A W&B server, asked whether it is there."""

import json
import queue
import ssl
import threading
import urllib.error
import urllib.request
from http.client import HTTPException

PROBE_SECONDS = 2.5


def answers(server: str) -> bool:
    """Check whether a W&B server responds to a request within `PROBE_SECONDS`. That includes name resolution."""
    bodies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask() -> None:
        question = json.dumps({"query": "query ServerInfo { serverInfo { cliVersionInfo } }"}).encode()
        request = urllib.request.Request(f"{server}/graphql", question, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as answer:
                bodies.put(answer.read(65536))
        except urllib.error.HTTPError as refusal:
            bodies.put(refusal.read(65536) if refusal.code < 500 else b"")
        except urllib.error.URLError as fault:
            # wandb may trust certificates that Python does not; the server is there.
            bodies.put(b"{}" if isinstance(fault.reason, ssl.SSLCertVerificationError) else b"")
        except (OSError, ValueError, HTTPException):
            bodies.put(b"")

    # urlopen's timeout bounds neither a slow name server nor a slow response; waiting for a thread does.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return isinstance(json.loads(bodies.get(timeout=PROBE_SECONDS)), dict)
    except (queue.Empty, ValueError):  # ValueError: the page of a hotel or a proxy, not of a W&B server
        return False
