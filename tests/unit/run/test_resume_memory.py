import re
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from finetune.optim.ema import EMA, trained_state
from finetune.optim.groups import ParamGroup
from finetune.run.checkpoint import STATE_KEYS, Checkpoint, load_checkpoint
from finetune.run.resume import restore
from finetune.run.saving.write_checkpoint import save_checkpoint
from tests.support.runs import differing

NUM = 4_000_000


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(NUM, 1, bias=False)
    return model, torch.optim.AdamW(model.parameters(), fused=True)


def anonymous_bytes() -> int:
    """Return this process's memory that belongs to no file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def mapped_ranges(folder: Path) -> list[range]:
    """The addresses at which files of the folder are mapped."""
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    return [range(*(int(text, 16) for text in line.split()[0].split("-"))) for line in lines]


def test_a_checkpoint_takes_no_memory_until_it_is_put_in_place_and_its_files_may_go_then(tmp_path: Path) -> None:
    model, optimizer = trained()
    ema = EMA.from_network(model, 0.9)
    model(torch.randn(1, NUM)).square().backward()
    optimizer.step()
    state = dict.fromkeys(STATE_KEYS) | {"step": 1}
    saved = Checkpoint(trained_state(model), ema.average, optimizer.state_dict(), state)
    folder = save_checkpoint(tmp_path, saved, "", keep=1)

    other, fresh = trained()
    average = EMA.from_network(other, 0.9)
    before = anonymous_bytes()
    checkpoint = load_checkpoint(folder)
    assert mapped_ranges(folder) and anonymous_bytes() - before < 4 * NUM  # of 16 bytes per weight
    groups = [ParamGroup("denoiser", list(other.parameters()), 1.0)]
    del checkpoint
    restore(folder, other, fresh, average, Accelerator(cpu=True), groups)
    inside = mapped_ranges(folder)
    kept = [*trained_state(other).values(), *average.average.values()]
    kept += [value for entry in fresh.state.values() for value in entry.values()]
    assert not any(value.data_ptr() in place for value in kept for place in inside)
    assert differing(trained_state(model), trained_state(other)) == []
    for mine, theirs in zip(fresh.state.values(), optimizer.state.values(), strict=True):
        assert differing(mine, theirs) == []
