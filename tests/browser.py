"""Chromium without a window, for tests that use a gateway's pages and ComfyUI's editor as people do."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What Chromium itself says of an answer that is no success; the pages tell of it in words.
_STATUS = re.compile(r"Failed to load resource: the server responded with a status of (401|404|422|503)")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if importlib.util.find_spec("playwright") is None or path is None:
        pytest.skip("It needs playwright and a Chromium on the PATH.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--no-proxy-server"])


class Visit:
    """One tab of a browser; what it asks for and complains of is noted."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.url = url
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._console)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning") and not _STATUS.match(message.text):
            self.complaints.append(message.text)

    def open(self, path: str = "/") -> Any:
        """Go there; the page."""
        self.page.goto(self.url + path)
        return self.page

    def check(self) -> None:
        """Nothing was complained of, and nothing asked of another host."""
        assert not self.complaints
        foreign = [each for each in self.requests if not each.startswith((self.url + "/", "blob:", "data:"))]
        assert self.requests and not foreign


Visiting = Callable[..., Visit]


@contextmanager
def visiting(browser: Any) -> Iterator[Visiting]:
    """A function that opens tabs; at the end each is checked and closed."""
    opened: list[Visit] = []

    def visit(url: str, **context: Any) -> Visit:
        opened.append(Visit(browser, url, **context))
        return opened[-1]

    try:
        yield visit
        for each in opened:
            each.check()
    finally:
        for each in opened:
            each.context.close()
