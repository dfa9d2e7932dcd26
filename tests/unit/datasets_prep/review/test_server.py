import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from datasets_prep.decisions import Decided, read_decisions
from datasets_prep.records import Prepared
from datasets_prep.report.build import write_report
from datasets_prep.report.thumbnails import small_image
from datasets_prep.review.server import ReviewServer, serve
from finetune.data.listing import Findings
from tests.support.images import listing, picture
from tests.support.local_requests import Headers, ask, serving

KEPT, OUTSIDE, REJECTED, UNSEEN = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared folder: a kept image, one elsewhere, one rejected."""
    folder = tmp_path / "prepared"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").write_bytes(picture())
    (tmp_path / "secret.png").write_bytes(picture("blue"))
    common = {"text": "one", "width": 12, "height": 8}
    kept = [
        {"file_name": "images/a.png", "sha256": KEPT, "source": "a.png", **common},
        {"file_name": "images/../../secret.png", "sha256": OUTSIDE, "source": "b.png", **common},
    ]
    rejected = [{"source": "c.png", "reason": "flagged", "detail": "", "sha256": REJECTED}]
    (folder / "metadata.jsonl").write_text(listing(*kept))
    (folder / "rejected.jsonl").write_text(listing(*rejected))
    prepared = Prepared("set", kept, rejected, [])
    write_report(folder / "report.html", prepared, lambda source: small_image(Image.new("RGB", (9, 9))))
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[ReviewServer]:
    with serving(ReviewServer(folder)) as server:
        yield server


def post(server: ReviewServer, decision: object, headers: Headers = None) -> tuple[int, bytes]:
    return ask(server, "POST", "/decisions", json.dumps(decision).encode(), headers)


def test_the_printed_address_gives_the_page_which_may_ask_the_server(server: ReviewServer) -> None:
    address = urlsplit(server.url)
    assert address.hostname == "127.0.0.1"
    status, page = ask(server, "GET", f"/?{address.query}", headers={"X-Token": None})
    assert status == 200
    assert b"connect-src 'self'; img-src 'self' data:" in page[:1000]


def test_a_decision_is_written_at_once_under_the_name_in_the_folder(server: ReviewServer, folder: Path) -> None:
    assert post(server, {"sha256": KEPT, "source": "a lie", "action": "caption", "text": 'new "text"\nü'})[0] == 200
    assert post(server, {"sha256": KEPT, "action": "drop"})[0] == 200
    assert post(server, {"sha256": REJECTED, "action": "keep"})[0] == 200
    decided = read_decisions(folder / "decisions.jsonl", Findings())
    assert decided == {KEPT: Decided("a.png", "drop", 'new "text"\nü'), REJECTED: Decided("c.png", "keep", None)}
    lines = json.loads(ask(server, "GET", "/decisions")[1])
    assert [line["action"] for line in lines] == ["caption", "drop", "keep"]
    assert server.num_written == 3


def test_earlier_decisions_are_there_again(server: ReviewServer, folder: Path) -> None:
    post(server, {"sha256": KEPT, "action": "drop"})
    with open(folder / "decisions.jsonl", "ab") as file:
        file.write(b"torn")
    with ReviewServer(folder) as again:
        assert [line["sha256"] for line in again.lines] == [KEPT]
        assert len(again.warnings) == 1


@pytest.mark.parametrize(
    "decision",
    [
        *(
            {"sha256": UNSEEN, "action": "drop"},
            {"sha256": KEPT, "action": "burn"},
            {"sha256": ["a"], "action": "drop"},
        ),
        *({"sha256": KEPT, "action": "caption"} | given for given in ({}, {"text": "a\0b"}, {"text": "x" * 20_001})),
        *([KEPT], "drop", None),
    ],
)
def test_what_is_not_a_decision_about_the_set_is_refused(server: ReviewServer, folder: Path, decision: object) -> None:
    assert post(server, decision)[0] == 400
    assert not (folder / "decisions.jsonl").exists()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_refused(server: ReviewServer, folder: Path, body: bytes) -> None:
    assert ask(server, "POST", "/decisions", body)[0] == 400
    assert not (folder / "decisions.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("Host", value) for value in ("evil.example", None, "127.0.0.1:1")),
        *(("Origin", value) for value in ("http://evil.example", "null")),
        *(("X-Token", value) for value in (None, "wrong", "w\xfcrong")),
    ],
)
def test_strangers_are_refused(server: ReviewServer, folder: Path, name: str, value: str | None) -> None:
    headers = {name: value}
    assert post(server, {"sha256": KEPT, "action": "drop"}, headers)[0] in (400, 403)
    for path in ("/", "/decisions", f"/picture/{KEPT}"):
        assert ask(server, "GET", path, headers=headers)[0] in (400, 403)
    assert not (folder / "decisions.jsonl").exists()


def test_its_own_page_is_not_a_stranger(server: ReviewServer) -> None:
    for host in ("127.0.0.1", "localhost"):
        name = f"{host}:{server.server_port}"
        assert post(server, {"sha256": KEPT, "action": "drop"}, {"Host": name, "Origin": f"http://{name}"})[0] == 200


def test_a_body_must_be_json_of_a_known_and_small_length(server: ReviewServer) -> None:
    assert post(server, {"sha256": KEPT, "action": "drop"}, {"Content-Type": "text/plain"})[0] == 415
    assert ask(server, "POST", "/decisions", b"{}", {"Content-Length": None})[0] == 411
    assert ask(server, "POST", "/decisions", b"{}", {"Content-Length": "-1"})[0] == 411
    assert ask(server, "POST", "/decisions", None, {"Content-Length": "999999999"})[0] == 413


def test_images_come_by_their_content_and_from_the_folder_only(server: ReviewServer) -> None:
    assert ask(server, "GET", f"/picture/{KEPT}") == (200, picture())
    for name in (OUTSIDE, REJECTED, UNSEEN, "", "../metadata.jsonl", "%2e%2e/metadata.jsonl", KEPT.upper()):
        assert ask(server, "GET", f"/picture/{name}")[0] == 404
    assert ask(server, "GET", "/metadata.jsonl")[0] == 404
    assert ask(server, "POST", "/", b"{}")[0] == 404
    assert ask(server, "PUT", "/decisions", b"{}")[0] == 501


def test_a_folder_that_was_not_prepared_is_refused_in_one_sentence(tmp_path: Path, folder: Path) -> None:
    for path, word in ((tmp_path / "gone", "no folder"), (tmp_path, "no report.html")):
        with pytest.raises(FileNotFoundError, match=word):
            serve(path)
    (folder / "report.html").write_text("<p>mine</p>")
    with pytest.raises(ValueError, match="not a report"):
        serve(folder)


@pytest.mark.parametrize("line", ["[]\n", "[" * 100_000])
def test_a_listing_that_was_damaged_is_refused_with_its_line(folder: Path, line: str) -> None:
    (folder / "rejected.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"rejected.jsonl line 1"):
        ReviewServer(folder)


def test_a_port_that_is_taken_is_refused(server: ReviewServer, folder: Path) -> None:
    for port in (server.server_port, 70_000):
        with pytest.raises(ValueError, match=f"port: {port}"):
            ReviewServer(folder, port)
