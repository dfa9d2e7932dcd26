"""`finetune rate` in a real browser: clicks, keys, restarts and other sites."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.preparation.browser import Browser
from tests.support.drawn_folders import add_scored
from tests.support.launch import ROOT, succeeded

HOSTILE = '"><img src=x onerror="window.ran=1"><script>window.ran=1</script>'


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    runs = [tmp_path / "one", tmp_path / "other"]
    for run, step in zip(runs, (100, 200), strict=True):
        add_scored(run, {"scored/base": None, f"scored/step_{step:06d}": step})
        grid = json.loads((run / "grid.json").read_text())
        grid["prompts"][0]["text"] = HOSTILE
        (run / "grid.json").write_text(json.dumps(grid))
    return runs


class Served:
    """The command as a process. `end` presses Ctrl-C and returns the rest of its output."""

    def __init__(self, runs: list[Path]) -> None:
        words = [sys.executable, "-m", "finetune.cli", "rate", *map(str, runs)]
        self.process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = next(line.strip() for line in self.process.stdout if "http://" in line)

    def end(self) -> str:
        self.process.send_signal(signal.SIGINT)
        said = self.process.communicate(timeout=30)[0]
        assert self.process.returncode == 0
        return said


def text(browser: Browser, name: str) -> str:
    return str(browser.value(f"document.getElementById('{name}').textContent"))


def wait_for(browser: Browser, num: int) -> None:
    ready = (
        f"!document.body.classList.contains('waiting') && document.getElementById('count').textContent === '{num} of 4'"
    )
    browser.wait(lambda: browser.value(ready) is True)


def click(browser: Browser, selector: str) -> None:
    box = f"""(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
    x, y = browser.value(box)
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def votes(run: Path) -> list[str]:
    rows = [json.loads(line) for line in (run / "votes.jsonl").read_text().splitlines()]
    return ["undo" if row.get("undone") else row["vote"] for row in rows]


def test_pairs_are_rated_by_keys_and_clicks_across_a_restart(
    browser: Browser, runs: list[Path], tmp_path: Path
) -> None:
    served = Served(runs)
    browser.open(served.address)
    wait_for(browser, 0)
    browser.press("1")
    wait_for(browser, 1)
    click(browser, "#right")
    wait_for(browser, 2)
    browser.press("u")
    wait_for(browser, 1)
    click(browser, "#keys [data-vote=none]")
    wait_for(browser, 2)
    assert votes(runs[0]) == ["left", "right", "undo", "none"]
    said = served.end()
    assert "2 votes" in said and "No preference shows" in said
    browser.press("1")
    browser.wait(lambda: "the comparison has ended" in text(browser, "state"))

    served = Served(runs)
    browser.open(served.address)
    wait_for(browser, 2)
    browser.press("2")
    wait_for(browser, 3)
    browser.press("0")
    browser.wait(lambda: "All pairs have a vote" in text(browser, "question"))
    assert "of 4 votes" in text(browser, "result") and HOSTILE in text(browser, "result")
    assert browser.value("window.ran") is None
    served.end()
    assert votes(runs[0])[4:] == ["right", "none"] and not (runs[1] / "votes.jsonl").exists()
    assert "of 4 votes" in succeeded(["-m", "finetune.cli", "rate", *map(str, runs), "--show"])


def test_another_site_in_the_same_browser_is_refused(browser: Browser, runs: list[Path], tmp_path: Path) -> None:
    served = Served(runs)
    (tmp_path / "evil.html").write_text("<p>evil</p>")
    state = served.address.replace("/?", "/state?")
    key = json.loads(urllib.request.urlopen(state).read())["pair"]["id"]
    browser.open((tmp_path / "evil.html").as_uri())
    attack = f"""(async () => {{
        const body = JSON.stringify({{pair: "{key}", vote: "left"}});
        const sent = {{method: "POST", mode: "no-cors", headers: {{"Content-Type": "text/plain"}}, body}};
        await fetch("{served.address.replace("/?", "/votes?")}", sent).catch(() => null);
        return fetch("{state}").then((found) => found.status).catch(() => "refused");
    }})()"""
    assert browser.value(attack) == "refused"
    served.end()
    assert not (runs[0] / "votes.jsonl").exists()


@pytest.mark.parametrize(("width", "height", "scheme"), [(390, 844, "light"), (390, 844, "dark"), (1100, 800, "dark")])
def test_both_images_and_the_keys_are_in_view(
    browser: Browser, runs: list[Path], tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    served = Served(runs)
    browser.open(served.address, width, height, scheme)
    wait_for(browser, 0)
    boxes = browser.value(
        """["#left", "#right", "#keys", "#undo"].map((name) => { const box = document.querySelector(name)
            .getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom, box.width]; })"""
    )
    assert isinstance(boxes, list)
    for left, top, right, bottom, _ in boxes:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert boxes[0][2] <= boxes[1][0] and boxes[0][4] == boxes[1][4] >= 0.4 * width
    assert browser.value("document.documentElement.scrollWidth") == width
    paper = str(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert (sum(map(int, paper[4:-1].split(","))) < 200) is (scheme == "dark")
    browser.screenshot(tmp_path / f"rate-{width}-{scheme}.png")
    served.end()
