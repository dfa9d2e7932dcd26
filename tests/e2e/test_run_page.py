"""The page of a run in a real browser."""

import json
from pathlib import Path

import pytest

from finetune.report.run import write_report
from tests.e2e.preparation.browser import Browser
from tests.support.scored_run import LONG, PROMPTS, scored_run

HOSTILE = "<script>window.ran=1</script>\"><img src=x onerror='window.ran=1'>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(scored_run(tmp_path_factory.mktemp("runs") / "ink"), message=LONG)


def box(browser: Browser, selector: str) -> dict[str, float]:
    found = browser.value(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
    assert isinstance(found, dict)
    return found


def at(browser: Browser) -> list[object]:
    """The chosen image of the gallery: row and column."""
    rows, cell = "[...document.querySelectorAll('tr.shots')]", "document.querySelector('td.current')"
    found = browser.value(f"[{rows}.indexOf({cell}.parentElement), {cell}.cellIndex]")
    assert isinstance(found, list)
    return found


def divider(browser: Browser) -> str:
    return str(browser.value("getComputedStyle(document.querySelector('.half.after')).clipPath"))


def test_the_page_asks_for_nothing_and_has_no_errors(browser: Browser, page: Path) -> None:
    browser.events.clear()
    browser.open(f"file://{page}")
    assert (
        browser.value("document.querySelectorAll('img').length") == 8 + 24 + 2 + 2 * (8 + 2) + 16 + 2
    )  # with the strengths
    assert browser.value("[...document.images].every((image) => image.naturalWidth > 0)")
    assert browser.faults() == []


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(247, 246, 243)"), ("dark", "rgb(20, 22, 26)")])
@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_fits_and_follows_the_colour_scheme(
    browser: Browser, page: Path, scheme: str, paper: str, width: int
) -> None:
    browser.open(f"file://{page}", width, 844, scheme)
    assert browser.value("document.documentElement.scrollWidth") == browser.value("document.body.clientWidth")
    assert browser.value("getComputedStyle(document.body).backgroundColor") == paper
    card = browser.value("getComputedStyle(document.querySelector('.verdict')).backgroundColor")
    assert card == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(28, 31, 37)")
    assert box(browser, ".verdict")["top"] < 844  # the verdict is what is seen first


def test_both_halves_are_in_view_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open(f"file://{page}", 390, 844)
    browser.value("document.querySelector('.slide').scrollIntoView()")
    for selector in (".half.before img", ".half.after img"):
        found = box(browser, selector)
        assert found["left"] >= 0 and found["right"] <= 390 and found["top"] >= 0 and found["bottom"] <= 844
    assert divider(browser) == "inset(0px 0px 0px 50%)"


def test_the_slider_moves_by_keys_and_by_dragging(browser: Browser, page: Path) -> None:
    browser.open(f"file://{page}")
    browser.value("document.querySelector('.slide input').focus()")
    browser.press("ArrowLeft", "ArrowLeft", "ArrowLeft")
    assert divider(browser) == "inset(0px 0px 0px 47%)"
    browser.press("Home")
    assert divider(browser) in ("inset(0px 0px 0px 0%)", "inset(0px)")
    assert browser.value("document.querySelector('.slide input').getAttribute('aria-valuetext')") == "0 % before"
    browser.value("document.querySelector('.slide').scrollIntoView({block: 'center'})")
    found = box(browser, ".slide input")
    middle = found["top"] + found["height"] / 2
    browser.drag((found["left"] + 4, middle), (found["left"] + 0.8 * found["width"], middle))
    share = float(divider(browser).rpartition(" ")[2].rstrip("%)"))
    assert 78 <= share <= 82


def test_arrow_keys_walk_through_steps_and_prompts(browser: Browser, page: Path) -> None:
    browser.open(f"file://{page}")
    assert at(browser) == [0, 3]  # the chosen step
    browser.value("document.querySelector('td.current').focus()")
    browser.press("ArrowLeft", "ArrowDown", "ArrowDown")
    assert at(browser) == [2, 2]
    assert browser.value("document.activeElement === document.querySelector('td.current')")
    assert browser.value("document.querySelector('.where').textContent") == f"{PROMPTS[1][0]} (seed 0)"
    captions = "[...document.querySelector('.stage').querySelectorAll('figcaption')].map((each) => each.textContent)"
    assert browser.value(captions) == ["base model", "step 100"]
    shown = browser.value("document.querySelectorAll('.stage img')[1].src")
    assert shown == browser.value("document.querySelector('td.current img').src")
    browser.press(*["ArrowRight"] * 9, *["ArrowDown"] * 9)  # no further than the last
    assert at(browser) == [5, 3]
    assert browser.value("[...document.querySelectorAll('td')].filter((cell) => cell.tabIndex === 0).length") == 4
    browser.value("document.querySelector('tr.shots td').click()")
    assert at(browser) == [0, 0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_strength_is_switched_by_keys_at_the_same_prompt_and_step(
    browser: Browser, page: Path, scheme: str
) -> None:
    browser.open(f"file://{page}", 390, 844, scheme)
    shown = "[...document.querySelectorAll('.choice')].map((each) => each.getBoundingClientRect().height > 0)"
    assert browser.value(shown) == [True, False, False]
    browser.value("document.querySelectorAll('tr.shots')[2].cells[1].click()")  # the second prompt at step 50
    browser.value("document.querySelector('.switch input').focus()")
    browser.press("ArrowRight", "ArrowRight")
    assert browser.value(shown) == [False, False, True]
    stage = "document.querySelectorAll('.choice')[2].querySelector('.stage')"
    captions = f"[...{stage}.querySelectorAll('figcaption')].map((each) => each.textContent)"
    assert browser.value(captions) == ["base model", "step 50"]
    assert browser.value(f"{stage}.querySelector('.where').textContent") == f"{PROMPTS[1][0]} (seed 0)"
    switch = box(browser, ".switch")
    assert switch["left"] >= 0 and switch["right"] <= 390
    assert browser.value("document.documentElement.scrollWidth") == browser.value("document.body.clientWidth")
    label = "getComputedStyle(document.querySelector('.switch label:not(:has(:checked))'))"
    assert browser.value(f"{label}.backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(28, 31, 37)"
    )


def test_before_and_after_of_the_gallery_are_in_view_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open(f"file://{page}", 390, 844)
    browser.value("document.querySelector('td.current').focus()")
    browser.press("ArrowDown", "ArrowDown", "ArrowDown")
    for number in (0, 1):
        found = browser.value(f"document.querySelectorAll('.stage img')[{number}].getBoundingClientRect().toJSON()")
        assert isinstance(found, dict)
        assert found["left"] >= 0 and found["right"] <= 390 and found["top"] >= 0 and found["bottom"] <= 844
    cell, stage = box(browser, "td.current"), box(browser, ".stage")
    assert stage["bottom"] <= cell["top"] and cell["bottom"] <= 844  # the chosen image is not behind the large ones


def test_without_scripts_all_images_are_there(browser: Browser, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(f"file://{page}", 390, 844)
        assert browser.value("getComputedStyle(document.querySelector('.stage')).display") == "none"
        assert browser.value("getComputedStyle(document.querySelector('.slide input')).display") == "none"
        before, after = (box(browser, f".half.{name} img") for name in ("before", "after"))
        assert before["right"] <= after["left"] and after["right"] <= 390 and before["top"] == after["top"]
        assert browser.value("document.querySelectorAll('tr.shots img').length") == 24 + 2 * 8 + 16
        assert browser.value("getComputedStyle(document.querySelector('.switch')).display") == "none"
        titles = browser.value("[...document.querySelectorAll('.choice h3')].map((each) => each.textContent)")
        assert titles == ["Strength 1", "Strength 0.75", "Strength 0.5"]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_hostile_prompts_and_names_are_text(browser: Browser, tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "ink", prompts=((HOSTILE, HOSTILE), (LONG, "user"), ("a cup", "neutral")))
    best = json.loads((folder / "best.json").read_text()) | {
        "reason": HOSTILE,
        "rule": HOSTILE,
        "warnings": [HOSTILE, LONG],
    }
    (folder / "best.json").write_text(json.dumps(best))
    folder = folder.rename(tmp_path / HOSTILE.replace("/", ""))
    browser.events.clear()
    browser.open(write_report(folder, message=HOSTILE).as_uri(), 390, 844)
    assert browser.value("window.ran === undefined") and browser.faults() == []
    assert browser.value("document.querySelector('.verdict p').textContent") == HOSTILE
    assert HOSTILE in str(browser.value("document.querySelector('.where').textContent"))
    assert browser.value("document.documentElement.scrollWidth") == browser.value("document.body.clientWidth")
