"""The report in a real browser: hostile names, keys, and decisions."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from datasets_prep.decisions import Decided, read_decisions
from datasets_prep.records import LintMark, Prepared
from datasets_prep.report.build import write_report
from datasets_prep.report.thumbnails import small_image
from finetune.data.listing import Findings
from tests.e2e.preparation.browser import Browser
from tests.support.images import encoded, gradient, listing

HOSTILE = '"><img src=x onerror="window.ran=1"><script>window.ran=1;document.title="ran"</script>\n\u202egpj\udcff.png'
NAMES = (HOSTILE, "b.png", "c.png")
SHA256 = {name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest() for name in (*NAMES, "copy.png")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared folder in which every text tries to run."""
    folder = tmp_path / "prepared"
    (folder / "images").mkdir(parents=True)
    kept = []
    for index, name in enumerate(NAMES):
        file_name = f"images/{index}.png"
        (folder / file_name).write_bytes(encoded(gradient(300, 200)))
        text = f"{HOSTILE[:-5]} number {index}".replace("\udcff", "")
        row = {"file_name": file_name, "text": text, "width": 300, "height": 200, "sha256": SHA256[name]}
        kept.append({**row, "source": name, "scores": {"detail": 0.1 * index}, "flags": ["dark"], "bucket": [64, 64]})
    rejected = [{"source": "copy.png", "reason": "near_duplicate", "detail": HOSTILE, "duplicate_of": "b.png"}]
    rejected[0] |= {"sha256": SHA256["copy.png"]}
    prepared = Prepared(
        HOSTILE, kept, rejected, [("scan", 4, 4, HOSTILE)], [HOSTILE], [LintMark("odd", HOSTILE, NAMES)]
    )
    write_report(folder / "report.html", prepared, lambda source: small_image(gradient(300, 200)))
    (folder / "metadata.jsonl").write_text(listing(*kept))
    (folder / "rejected.jsonl").write_text(listing(*rejected))
    return folder


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Return the address that `serve` prints; Ctrl-C ends it."""
    code = "import sys, pathlib; from datasets_prep.review.server import serve; serve(pathlib.Path(sys.argv[1]))"
    root = Path(__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield next(line.strip() for line in process.stdout if "http://" in line)
    process.send_signal(signal.SIGINT)
    last = process.communicate(timeout=20)[0].strip().splitlines()[-1]
    assert process.returncode == 0
    written = folder / "decisions.jsonl"
    num = len(written.read_bytes().splitlines()) if written.exists() else 0
    assert last.startswith(f"{num} decision") and "--output" in last


def decided(folder: Path) -> dict[str, Decided]:
    return read_decisions(folder / "decisions.jsonl", Findings())


def state(browser: Browser) -> str:
    return str(browser.value("document.getElementById('state').textContent"))


def choose(browser: Browser, name: str) -> None:
    browser.value(f"document.querySelector('#captions [data-sha=\"{SHA256[name]}\"] .caption').click()")


def assert_nothing_ran(browser: Browser) -> None:
    assert browser.value("window.ran === undefined")
    assert browser.value("document.title") == HOSTILE.replace("\n", " ").replace("\udcff", "?") + ": preparation"
    assert browser.value("document.querySelectorAll('img, main script').length") == 0


def test_no_text_of_a_dataset_runs(browser: Browser, folder: Path, tmp_path: Path) -> None:
    browser.open(f"file://{folder}/report.html")
    assert_nothing_ran(browser)
    assert browser.value("document.querySelector('.caption').textContent.includes('<script>')")
    picture = Image.open(browser.screenshot(tmp_path / "page.png")).convert("RGB")
    assert len(set(picture.resize((110, 100)).get_flattened_data())) > 50  # images are drawn, not an empty page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(browser: Browser, folder: Path, scheme: str) -> None:
    browser.open(f"file://{folder}/report.html", 390, 844, scheme)
    assert browser.value("document.documentElement.scrollWidth") == browser.value("document.body.clientWidth")
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (str(paper) == "rgb(20, 22, 26)") == (scheme == "dark")


def test_a_page_opened_as_a_file_keeps_decisions_and_hands_them_over(browser: Browser, folder: Path) -> None:
    page = f"file://{folder}/report.html"
    browser.open(page)
    browser.value("localStorage.clear()")
    browser.open(page)
    choose(browser, "b.png")
    browser.press("x")
    choose(browser, HOSTILE)
    browser.press("a")
    browser.open(page)
    assert state(browser).startswith("2 decisions")
    browser.value("URL.createObjectURL = (blob) => { window.blob = blob; return '#'; }")
    browser.value("document.getElementById('download').click()")
    (folder / "decisions.jsonl").write_text(str(browser.value("blob.text()")))
    verdicts = {sha256: merged.verdict for sha256, merged in decided(folder).items()}
    assert verdicts == {SHA256["b.png"]: "drop", SHA256[HOSTILE]: "keep"}


def test_keys_decide_and_the_served_page_writes_at_once(browser: Browser, folder: Path, address: str) -> None:
    browser.open(address)
    browser.wait(lambda: state(browser) == "No decisions yet")
    browser.press("j", "j", "k", "x")  # the first image is the keeper of the copy
    browser.wait(lambda: state(browser).startswith("1 decision, saved"))
    browser.wait(lambda: decided(folder) == {SHA256["b.png"]: Decided("b.png", "drop", None)})
    assert browser.value(f"[...document.querySelectorAll('[data-sha=\"{SHA256['b.png']}\"]')].every("
                         "(card) => card.classList.contains('drop'))")  # fmt: skip
    choose(browser, HOSTILE)
    browser.press("e")
    browser.value("document.getElementById('text').select()")
    browser.type("<script>window.ran=1</script> jxk")
    browser.value("document.getElementById('save').click()")
    browser.wait(lambda: state(browser).startswith("2 decisions"))
    assert decided(folder)[SHA256[HOSTILE]] == Decided(HOSTILE, None, "<script>window.ran=1</script> jxk")
    browser.press("u", "u")
    browser.wait(lambda: state(browser) == "No decisions yet")
    browser.wait(lambda: decided(folder) == {})
    lines = (folder / "decisions.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["drop", "caption", "undo", "undo"]
    assert_nothing_ran(browser)


def test_a_decision_stays_after_the_page_is_opened_again(browser: Browser, folder: Path, address: str) -> None:
    browser.open(address)
    choose(browser, "c.png")
    browser.press("x")
    browser.wait(lambda: state(browser).startswith("1 decision, saved"))
    browser.open(address)
    browser.wait(lambda: state(browser).startswith("1 decision, saved"))
    assert browser.value("document.querySelectorAll('#captions .drop').length") == 1


def test_an_image_is_shown_large(browser: Browser, folder: Path, address: str) -> None:
    browser.open(address)
    choose(browser, "b.png")
    browser.press("o")
    browser.wait(lambda: browser.value("document.querySelector('#view img')?.naturalWidth") == 300)
    browser.value("document.getElementById('large').close()")
    browser.value(f"document.querySelector('#copies [data-sha=\"{SHA256['copy.png']}\"]').click()")
    browser.press("o")  # what was left out is not in the folder, so its small image has to do
    browser.wait(lambda: bool(browser.value("document.querySelector('#view .t') !== null")))


def test_a_decision_that_could_not_be_saved_is_not_shown_as_made(browser: Browser, folder: Path, address: str) -> None:
    browser.open(address)
    browser.wait(lambda: state(browser) == "No decisions yet")
    (folder / "decisions.jsonl").mkdir()
    choose(browser, "b.png")
    browser.press("x")
    browser.wait(lambda: state(browser).startswith("Not saved"))
    assert browser.value("document.querySelectorAll('.drop').length") == 0
    os.rmdir(folder / "decisions.jsonl")


def test_the_search_finds_words_whatever_stands_between(browser: Browser, folder: Path) -> None:
    browser.open(f"file://{folder}/report.html")
    browser.press("/")
    browser.type("NUMBER, 1")
    browser.wait(lambda: browser.value("document.getElementById('found').textContent") == "1 of 3")
    rows = "[...document.querySelectorAll('#captions > .row')].filter((row) => row.checkVisibility())"
    assert browser.value(f"{rows}.length") == 1
