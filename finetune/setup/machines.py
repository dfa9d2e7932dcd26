"""Write the machines of this start of a run into OUT/machines.json."""

import json
from datetime import UTC, datetime
from typing import Any

import torch

from finetune.files import write_atomically
from finetune.processes.ranks import ranks
from finetune.report.machines import FILE, this_machine, versions
from finetune.report.rows import objects, read_json
from finetune.session import Run


def record_start(run: Run, step: int) -> None:
    """Add this start to the file. All processes take part, and the main process writes."""
    accelerator = run.accelerator
    device = accelerator.device
    names = [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
    own = {"is_first": accelerator.local_process_index == 0, "machine": this_machine(names)}
    machines: list[dict[str, Any]] = []
    for each in map(json.loads, ranks().exchange(json.dumps(own))):
        if each["is_first"]:  # processes are numbered machine by machine
            machines.append(each["machine"])
        else:
            machines[-1]["devices"] += each["machine"]["devices"]
    if accelerator.is_main_process:
        path = run.folder / FILE
        start = {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "step": step, "machines": machines}
        starts = [*objects(read_json(path).get("starts")), start | {"versions": dict(versions())}]
        write_atomically(path, json.dumps({"starts": starts}, indent=1))
