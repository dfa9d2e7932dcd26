import json
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.batches.store import Entry, ShardStore
from tests.support.launch import command
from tests.unit.batches.test_store import encode, fill_all, keys_of, same, value_of
from tests.unit.datasets_prep.caches.test_lines import reopened

CONTEXT = multiprocessing.get_context("fork")  # a child needs nothing but what is imported here


def encode_until(keys: Sequence[str], last: int) -> Iterator[tuple[str, Entry]]:
    for number, entry in enumerate(encode(keys)):
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)
        yield entry


def fill_and_die(folder: Path, num: int, last: int) -> None:
    fill_all(folder, keys_of(num), encode=lambda keys: encode_until(keys, last))


def fill_with_shards_of(folder: Path, num: int, shard_size: int) -> None:
    fill_all(folder, keys_of(num), shard_size=shard_size)


def test_filling_again_after_kill_9_gives_what_an_undisturbed_fill_gives(tmp_path: Path) -> None:
    num = 30
    straight, broken = fill_all(tmp_path / "straight", keys_of(num)), tmp_path / "broken"
    draw, missing = random.Random(0), num
    while missing > 8:
        killed = CONTEXT.Process(target=fill_and_die, args=(broken, num, draw.randrange(5, 9)))
        killed.start()
        killed.join(60)
        assert killed.exitcode == -signal.SIGKILL
        left = len(ShardStore(broken).missing(keys_of(num)))
        assert left < missing  # each attempt keeps what it wrote
        missing = left
    refilled = fill_all(broken, keys_of(num))
    assert refilled.missing(keys_of(num)) == [] and refilled.warnings == []
    assert all(same(refilled.read(key), straight.read(key)) for key in keys_of(num))


def test_two_processes_may_fill_one_folder_at_once(tmp_path: Path) -> None:
    num = 200
    both = [CONTEXT.Process(target=fill_with_shards_of, args=(tmp_path, num, size)) for size in (3, 3, 7)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    store = ShardStore(tmp_path)
    assert store.missing(keys_of(num)) == [] and store.warnings == []
    assert all(same(store.read(key), value_of(key)) for key in keys_of(num))
    assert [path for path in tmp_path.iterdir() if path.suffix != ".safetensors"] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from datasets_prep.caches.lines import JsonLines
from datasets_prep.captioners.base import Result
from datasets_prep.captions.cache import JsonLinesCache
from finetune.data.listing import Findings
kept = {kind}(Path(sys.argv[1]), Findings())
for number in range(5):
    kept.put({arguments})
os.kill(os.getpid(), signal.SIGKILL)
"""


def written_and_killed(path: Path, kind: str, arguments: str) -> None:
    program = KILLED.format(kind=kind, arguments=arguments)
    assert command(["-c", program, str(path)]).returncode == -signal.SIGKILL


def test_what_was_measured_outlives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    written_and_killed(path, "JsonLines", "str(number), number / 4")
    lines, warnings = reopened(path)
    assert [lines.get(str(number)) for number in range(5)] == [0, 0.25, 0.5, 0.75, 1] and warnings == ()
    lines.close()


def test_a_caption_outlives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    written_and_killed(path, "JsonLinesCache", "'long', [(bytes([number]), 'id', Result('text', 1, 'stop'))]")
    assert [json.loads(line)["picture"] for line in path.read_text().splitlines()] == ["00", "01", "02", "03", "04"]
