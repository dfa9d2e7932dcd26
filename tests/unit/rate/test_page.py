import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from finetune.cli import main
from finetune.processes.local_page import LocalServer
from finetune.rate.command import RateOptions, rate
from finetune.rate.page import RatePage
from finetune.rate.pairs import Pair, make_pairs
from finetune.rate.targets import find_target
from finetune.rate.votes import read_votes
from tests.support.drawn_folders import add_scored
from tests.support.guides import ROOT, commands
from tests.support.local_requests import Headers, ask, serving


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    add_scored(tmp_path / "one", {"scored/step_000100": 100})
    add_scored(tmp_path / "other", {"scored/step_000200": 200})
    return tmp_path / "one", tmp_path / "other"


def refused(warning: str) -> None:
    raise AssertionError(warning)


def opened(runs: tuple[Path, Path], votes: Path) -> tuple[LocalServer, list[Pair]]:
    first, second = map(find_target, runs)
    pairs, _ = make_pairs(first, second, 0)
    page = RatePage(pairs, read_votes(votes, pairs, refused), votes, first=first.name, second=second.name)
    return LocalServer(page), pairs


@pytest.fixture
def server(runs: tuple[Path, Path], tmp_path: Path) -> Iterator[LocalServer]:
    with serving(opened(runs, tmp_path / "votes.jsonl")[0]) as server:
        yield server


def state(server: LocalServer) -> dict:
    return json.loads(ask(server, "GET", "/state")[1])


def post(server: LocalServer, path: str, value: object, headers: Headers = None) -> tuple[int, bytes]:
    return ask(server, "POST", path, json.dumps(value).encode(), headers)


def vote(server: LocalServer, choice: str) -> int:
    return post(server, "/votes", {"pair": state(server)["pair"]["id"], "vote": choice})[0]


def test_nothing_names_the_targets_before_the_end(server: LocalServer, runs: tuple[Path, Path]) -> None:
    seen = ask(server, "GET", f"/?token={server.token}", headers={"X-Token": None})[1]
    while (found := state(server))["pair"]:
        seen += json.dumps(found).encode()
        for side in ("left", "right"):
            status, image = ask(server, "GET", f"/image/{found['pair']['id']}/{side}")
            assert status == 200 and Image.open(io.BytesIO(image)).info == {}
            seen += image
        assert vote(server, "none") == 200
    assert not [name for name in (b"/one", b"other", b"step_", b"scored", b"ink-") if name in seen]
    assert str(runs[0]) in " ".join(found["result"]) and found["done"] == found["total"] == 4


def test_the_shown_sides_are_those_that_votes_count(runs: tuple[Path, Path], tmp_path: Path) -> None:
    server, pairs = opened(runs, tmp_path / "votes.jsonl")
    by_key = {pair.key: pair for pair in pairs}
    with serving(server):
        while (found := state(server))["pair"]:
            pair = by_key[found["pair"]["id"]]
            side = "left" if pair.left.target.startswith(str(runs[0])) else "right"
            image = Image.open(io.BytesIO(ask(server, "GET", f"/image/{pair.key}/{side}")[1]))
            folder = runs[0] / "scored" / "step_000100"
            assert image.tobytes() == Image.open(folder / vars(pair)[side].path.name).tobytes()
            vote(server, side)
    result = rate(RateOptions(runs, tmp_path / "votes.jsonl", show=True), lambda text: None)
    assert result.share is not None and result.share.value == 1 and result.num_votes == 4


def test_a_restart_resumes_and_votes_are_taken_back(runs: tuple[Path, Path], tmp_path: Path) -> None:
    votes = tmp_path / "votes.jsonl"
    with serving(opened(runs, votes)[0]) as server:
        first = state(server)["pair"]["id"]
        vote(server, "left")
        second = state(server)["pair"]["id"]
        vote(server, "right")
        third = state(server)["pair"]["id"]
    with votes.open("ab") as file:
        file.write(b'{"pair": "torn')  # by a kill
    pairs = opened(runs, tmp_path / "none")[1]
    warnings: list[str] = []
    assert list(read_votes(votes, pairs, warnings.append)) == [first, second] and len(warnings) == 1
    votes.write_bytes(votes.read_bytes().removesuffix(b'{"pair": "torn'))
    with serving(opened(runs, votes)[0]) as server:
        assert state(server)["pair"]["id"] == third and state(server)["done"] == 2
        assert post(server, "/undo", {})[0] == 200 and state(server)["pair"]["id"] == second
        assert vote(server, "none") == 200
    assert read_votes(votes, pairs, refused)[second] is None
    assert len(votes.read_bytes().splitlines()) == 4  # nothing is erased


def test_a_vote_after_a_torn_line_is_a_line_of_its_own(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "votes.jsonl").write_bytes(b"torn")
    warnings: list[str] = []
    first, second = map(find_target, runs)
    pairs, _ = make_pairs(first, second, 0)
    page = RatePage(pairs, {}, tmp_path / "votes.jsonl", first=first.name, second=second.name)
    page.post("/votes", {"pair": pairs[0].key, "vote": "left"})
    assert list(read_votes(tmp_path / "votes.jsonl", pairs, warnings.append)) == [pairs[0].key]


@pytest.mark.parametrize(
    "value", [{}, [], "left", None, {"pair": "x", "vote": "left"}, {"pair": ["x"], "vote": "left"}, {"vote": "left"}]
)
def test_what_is_not_a_vote_is_refused(server: LocalServer, tmp_path: Path, value: object) -> None:
    assert post(server, "/votes", value)[0] == 400
    assert post(server, "/votes", {"pair": state(server)["pair"]["id"], "vote": ["left"]})[0] == 400
    assert post(server, "/undo", {})[0] == 400
    assert not (tmp_path / "votes.jsonl").exists()


def test_a_pair_has_one_vote(server: LocalServer) -> None:
    key = state(server)["pair"]["id"]
    assert [post(server, "/votes", {"pair": key, "vote": "left"})[0] for _ in range(2)] == [200, 400]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("Host", value) for value in ("evil.example", None, "127.0.0.1:1")),
        *(("Origin", value) for value in ("http://evil.example", "null")),
        *(("X-Token", value) for value in (None, "wrong")),
    ],
)
def test_strangers_are_refused(server: LocalServer, tmp_path: Path, name: str, value: str | None) -> None:
    key = state(server)["pair"]["id"]
    headers = {name: value}
    assert post(server, "/votes", {"pair": key, "vote": "left"}, headers)[0] in (400, 403)
    for path in ("/", "/state", f"/image/{key}/left"):
        assert ask(server, "GET", path, headers=headers)[0] in (400, 403)
    assert not (tmp_path / "votes.jsonl").exists()


def test_only_images_of_pairs_are_served(server: LocalServer) -> None:
    key = state(server)["pair"]["id"]
    for path in (f"/image/{key}/key", f"/image/{key}", "/image/../grid.json", f"/image/{key}/left/x", "/votes"):
        assert ask(server, "GET", path)[0] == 404


def test_the_commands_of_the_guide_run(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = commands((ROOT / "docs" / "rate.md").read_text())
    for command in given:
        for target, run in zip(command[2:4], runs, strict=True):
            shutil.copytree(next((run / "scored").iterdir()) if "images" in target else run, target, dirs_exist_ok=True)
        monkeypatch.setattr(sys, "argv", [*command, *(() if "--show" in command else ("--show",))])
        main()
        assert capsys.readouterr().out == "No votes yet about 4 pairs.\n"
    assert len(given) == 3


def test_votes_are_beside_the_first_grid(runs: tuple[Path, Path], tmp_path: Path) -> None:
    said: list[str] = []
    rate(RateOptions(runs, show=True), said.append)
    assert said == ["No votes yet about 4 pairs."]
    bare = tmp_path / "deep" / "deep" / "deep" / "deep"
    (runs[0] / "scored" / "step_000100").rename(tmp_path / "bare")
    bare.parent.mkdir(parents=True)
    (tmp_path / "bare").rename(bare)
    with pytest.raises(ValueError, match=r"^output: missing"):
        rate(RateOptions((bare, runs[1]), show=True), said.append)
    with pytest.raises(ValueError, match=r"^output: got"):
        rate(RateOptions((bare, runs[1]), output=tmp_path / "absent" / "votes.jsonl", show=True), said.append)
