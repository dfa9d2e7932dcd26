"""Upload a growing offline W&B run from a process of its own. It ends with the process that started it. `offline_run`
starts this file by its path, so it imports nothing of ours. Its standard input is a pipe whose other end the training
process has and never writes to: end of file means that training is gone, whatever the reason."""

import os
import runpy
import sys
import threading


def end_with_parent() -> None:
    """Block until the training process is gone, then end this one. wandb's own helper process ends with it."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.argv = ["wandb", "beta", "sync", "--live", "--yes", sys.argv[1]]
    runpy.run_module("wandb", run_name="__main__", alter_sys=True)
