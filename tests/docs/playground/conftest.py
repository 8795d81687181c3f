"""The pages to play with, in headless Chromium."""

from __future__ import annotations

import pytest

from tests.browser import Browser
from tests.docs.playground.site import write_site
from tests.docs.serving import served


@pytest.fixture(scope="session")
def assets(script):
    """The files that ``scripts/playground.py`` makes and are there, by their names in the site."""
    playground = script("playground")
    files = {**playground.assets(playground.BUILD), "digit.safetensors": playground.WEIGHTS}
    return {name: path for name, path in files.items() if path.is_file()}


@pytest.fixture(scope="session")
def address(assets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, assets)
    with served(folder) as url:
        yield url


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(opened, address):
    """The browser; what it loads must not complain, nor ask another host."""
    opened.resize(1400)
    opened.visit("about:blank")
    opened.requests()
    yield opened
    assert opened.complaints() == []
    asked = [url for url in opened.requests() if not url.startswith((address, "about:"))]
    assert asked == []
