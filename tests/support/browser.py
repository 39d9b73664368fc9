"""A browser without a window, for tests of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

__all__ = ["browsing", "opened"]

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browsing() -> Iterator[Browser]:
    """Yield a browser of the system; skip where there is none, unless LSSTCUTOUTS_BROWSER=required."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        message = f"none of {', '.join(NAMES)} is installed"
        if os.environ.get("LSSTCUTOUTS_BROWSER") == "required":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # Its sandbox refuses to run as root, which continuous integration does.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, *, script: str = "") -> Iterator[Page]:
    """Yield a page of a file, in a profile of its own without network; fail if the page reports an error or asks for more.

    ``script`` runs before those of the page.
    """
    context = browser.new_context(viewport={"width": 1366, "height": 768}, offline=True, accept_downloads=True)
    errors: list[str] = []
    requests: list[str] = []
    page = context.new_page()
    page.add_init_script(script)
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    assert errors == []
    assert {url for url in requests if not url.startswith(("data:", "blob:"))} == {path.as_uri()}
