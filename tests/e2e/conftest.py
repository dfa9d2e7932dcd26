from collections.abc import Iterator

import pytest

from tests.e2e.preparation.browser import Browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser that notes requests and errors."""
    browser = Browser(tmp_path_factory.mktemp("profile"))
    browser.watch()
    yield browser
    browser.close()
