"""`finetune rate`: serve a blind comparison, or show its result. Torch-free."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.plurals import plural
from finetune.processes.local_page import LocalServer
from finetune.rate.page import RatePage
from finetune.rate.pairs import make_pairs
from finetune.rate.result import Result, count_votes
from finetune.rate.shown import renew_report
from finetune.rate.targets import RatedTarget, find_target
from finetune.rate.votes import FILE, read_votes

Say = Callable[[str], None]


@dataclass(frozen=True)
class RateOptions:
    """Options of the command line."""

    targets: Sequence[Path]
    output: Path | None = None
    seed: int = 0
    port: int = 0
    show: bool = False


def rate(options: RateOptions, say: Say = print) -> Result:
    """Serve the pairs of two targets until Ctrl-C. The result is said at the end."""
    first, second = (find_target(path) for path in options.targets)
    pairs, num_equal = make_pairs(first, second, options.seed)
    path = votes_file(options.output, first)
    votes = read_votes(path, pairs, lambda text: say(f"warning: {text}"))
    if num_equal:
        say(f"{plural(num_equal, 'pair')} of equal images left out.")
    result = count_votes(pairs, votes, first.name, second.name)
    if not options.show:
        page = RatePage(pairs, votes, path, first=first.name, second=second.name)
        server = LocalServer(page, options.port)
        say(f"{plural(len(pairs), 'pair')}, {len(votes):,} with a vote in {path}.")
        say(f"Compare at\n  {server.url}\nKeys: 1 left, 2 right, 0 no difference, u takes a vote back. Ctrl-C ends it.")
        server.serve_until_interrupted()
        result = page.result()
        is_of_the_run = first.root is not None and path.parent == first.root == second.root
        if is_of_the_run and (report := renew_report(path.parent)) is not None:
            say(f"Its votes are on {report}.")
    for line in [*result.sentences(), *result.table()]:
        say(line)
    return result


def votes_file(output: Path | None, first: RatedTarget) -> Path:
    """Choose the file of votes. It is beside the first target's grid where no other is given."""
    if output is None and first.root is None:
        raise ValueError(
            f"output: missing, since {first.name} is in no scored folder. Give a file: --output votes.jsonl."
        )
    path = output or (first.root or Path()) / FILE
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"output: got {path}, expected a file in a folder that exists. Use: --output votes.jsonl.")
    return path
