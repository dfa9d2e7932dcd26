"""A name for one start of a job's processes; torch-free.

A launcher that restarts its processes keeps their store (read and tried with torch 2.13, static and c10d rendezvous).
The store still holds what the processes before wrote: addresses that nobody listens to, old answers, a request to stop.
So those of each start agree on a name, and write under it. The restart count of the launcher is not one: a machine that
joins later counts from 0.
"""

import hashlib
import secrets
import time

from finetune.processes.ranks import KeyValueStore, LostProcess

ROSTER = "meeting/roster"
BEGUN = "meeting/begun"


def meet(store: KeyValueStore, rank: int, size: int, timeout_seconds: float) -> str:
    """Return a name that no earlier start of the job had. Raises LostProcess if the others do not come in time.

    Each process writes a new token; the first lists all of them, until every process has answered the same list."""
    own = secrets.token_hex(8)
    store.set(f"meeting/{rank}", own)
    deadline, pause = time.monotonic() + timeout_seconds, 0.001
    while time.monotonic() < deadline:
        if rank == 0:
            store.set(ROSTER, " ".join(read(store, f"meeting/{other}") or "-" for other in range(size)))
        roster = read(store, ROSTER)
        tokens = roster.split()
        if len(tokens) == size and tokens[rank] == own:
            store.set(f"meeting/{rank}/seen", roster)
            if rank == 0 and all(read(store, f"meeting/{other}/seen") == roster for other in range(size)):
                store.set(BEGUN, roster)
            if read(store, BEGUN) == roster:
                return hashlib.sha256(roster.encode()).hexdigest()[:16]
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    raise LostProcess(f"the processes of this job did not find each other within {timeout_seconds:g} s.")


def read(store: KeyValueStore, key: str) -> str:
    """Read a key, empty where nobody wrote it."""
    return store.get(key).decode() if store.check([key]) else ""
