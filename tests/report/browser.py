"""Chromium, where there is one: the page is opened as a reader would, and what it does is written down."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
WHAT_TO_DO = "no Chromium was found: `playwright install chromium`, your system's package, or ANYDPO_CHROMIUM=PATH"


@dataclass
class Seen:
    """What a page did while it was open."""

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    overflowing: list[str] = field(default_factory=list)
    scrolls: bool = False


# Elements that reach beyond the window, unless a box that scrolls or cuts holds them
OVERFLOWING = """() => [...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width || (box.right <= innerWidth + 1 && box.left >= -1)) return false;
  for (let p = e.parentElement; p; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
  return true;
}).map(e => e.outerHTML.slice(0, 200))"""


def executable() -> str | None:
    """The browser to use, None where there is none."""
    named = os.environ.get("ANYDPO_CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; skips the test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with api.sync_playwright() as play:
        found = executable()
        try:
            browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except api.Error:
            if found is not None:
                raise
            pytest.skip(WHAT_TO_DO)  # playwright has not brought its own either
        try:
            yield browser
        finally:
            browser.close()


def visit(browser: Any, page: Path, width: int, scheme: str, shot: Path | None = None) -> Seen:
    """Open a page in a window of this width; `shot` keeps a picture of all of it."""
    seen = Seen()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    tab.on("console", lambda message: seen.console.append(message.text))
    tab.on("pageerror", lambda error: seen.console.append(str(error)))
    tab.on("dialog", lambda dialog: seen.console.append(f"dialog: {dialog.message}"))
    tab.on("request", lambda request: seen.requests.append(request.url))
    tab.goto(page.resolve().as_uri())
    seen.scrolls = tab.evaluate("document.documentElement.scrollWidth > innerWidth")
    seen.overflowing = tab.evaluate(OVERFLOWING)
    if shot is not None:
        tab.screenshot(path=shot, full_page=True)
    context.close()
    return seen
