"""The page of several runs in a real browser."""

from pathlib import Path

import pytest

from finetune.compare.command import compare
from tests.e2e.preparation.browser import Browser
from tests.support.scored_run import LONG, scored_run

HOSTILE = "<script>window.ran=1<script>\"><img src=x onerror='window.ran=1'>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of ten runs. One has hostile texts, one another base model."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [scored_run(folder / f"ink-{place}", lr=f"{place + 1}e-4") for place in range(8)]
    prompts = ((HOSTILE, HOSTILE), (LONG, "user"), ("a cup", "neutral"))
    runs.append(scored_run(folder / HOSTILE, prompts=prompts, data=LONG))
    runs.append(scored_run(folder / "other", base="c" * 64))
    return compare(runs, folder / "compare.html", say=lambda text: None)


def count(browser: Browser, selector: str) -> object:
    return browser.value(f"document.querySelectorAll({selector!r}).length")


def test_the_page_asks_for_nothing_and_runs_no_text(browser: Browser, page: Path) -> None:
    browser.events.clear()
    browser.open(page.as_uri())
    assert browser.faults() == [] and browser.value("window.ran === undefined")
    assert browser.value("document.title") == "Comparison of 10 runs"
    assert count(browser, ".runs tr") == 11 and count(browser, "figure.chart") == 5
    assert HOSTILE in str(browser.value("document.querySelector('.runs').textContent"))


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(247, 246, 243)"), ("dark", "rgb(20, 22, 26)")])
@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_fits_and_follows_the_colour_scheme(
    browser: Browser, page: Path, scheme: str, paper: str, width: int
) -> None:
    browser.open(page.as_uri(), width, 844, scheme)
    assert browser.value("document.documentElement.scrollWidth") == browser.value("document.body.clientWidth")
    assert browser.value("getComputedStyle(document.body).backgroundColor") == paper
    lines = browser.value("[...document.querySelectorAll('figure.chart:first-child path.line')].map((line) =>"
                          " getComputedStyle(line).stroke + getComputedStyle(line).strokeDasharray)")  # fmt: skip
    assert isinstance(lines, list)
    assert len(set(lines)) == len(lines) == 10  # no two runs look the same


def test_arrow_keys_walk_through_runs_and_prompts(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri(), 390, 844)
    captions = "[...document.querySelectorAll('.choice:not([hidden]) figcaption')].map((each) => each.textContent)"
    assert browser.value(captions) == ["base model", "ink-0: step 200"]
    browser.value("document.querySelector('td.current').focus()")
    browser.press("ArrowRight", "ArrowDown")
    assert browser.value(captions) == ["base model", "ink-1: step 200"]
    assert browser.value("document.querySelector('.where').textContent") == "a lighthouse, ink (seed 1)"
    for number in (0, 1):
        found = browser.value(f"document.querySelectorAll('.stage img')[{number}].getBoundingClientRect().toJSON()")
        assert isinstance(found, dict)
        assert found["left"] >= 0 and found["right"] <= 390 and found["top"] >= 0 and found["bottom"] <= 844


def test_the_images_are_switched_to_the_chosen_strength_of_each_run(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri(), 390, 844)
    browser.value("document.querySelector('.switch input').focus()")
    browser.press("ArrowRight")
    captions = "[...document.querySelectorAll('.choice:not([hidden]) figcaption')].map((each) => each.textContent)"
    assert browser.value(captions) == ["base model", "ink-0: step 200 at strength 0.75"]


def test_the_names_of_runs_can_be_read_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri(), 390, 844)
    heights = browser.value("[...document.querySelectorAll('.runs td:first-child .key')].map((name) =>"
                            " name.getBoundingClientRect().height)")  # fmt: skip
    assert isinstance(heights, list)
    assert max(heights[:8]) < 30  # one line for a short name
