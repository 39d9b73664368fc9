"""The page docs/label.md: its commands and programs run as they stand; in between, the page of the gallery is labelled."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
from playwright.sync_api import Page

from lsstcutouts import Catalog
from lsstcutouts.app.cli import main

from ..support.browser import browsing, opened

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "label.md"
FILE = re.compile(r"^# (\w+\.py)$", re.MULTILINE)
NAMES = ("lens", "galaxy", "star")


def label_by_kind(page: Page, path: Path) -> None:
    """Name three labels, give each target that of its kind, and save."""
    for n, name in enumerate(NAMES, 1):
        page.fill(f"#labels li:nth-child({n}) input", name)
        page.keyboard.press("Enter")
    for _ in range(60):
        kind = page.inner_text("#details tr:has(th:text-is('kind')) td")
        page.keyboard.press(str(1 + NAMES.index(kind)))
    with page.expect_download() as download:
        page.keyboard.press("s")
    download.value.save_as(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning and pandas, about a sky as small as this one
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shown = ""
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if kind == "sh":
            for command in map(shlex.split, text.splitlines()):
                assert main(command[1:]) == 0, f"{shlex.join(command)}\n{capsys.readouterr().err}"
                if "output=candidates.html" in command:
                    with browsing() as browser, opened(browser, tmp_path / "candidates.html") as page:
                        label_by_kind(page, tmp_path / "labels.csv")
            continue
        name = FILE.search(text)[1]
        (tmp_path / name).write_text(text)
        runpy.run_path(name)
        shown += capsys.readouterr().out
    labels = Catalog.from_any("labels.csv", columns=["label"])
    assert len(labels) == 60
    assert set(labels.columns["label"]) <= set(NAMES)
    assert re.findall(r"^(\w+): \d+ lenses among the 20 highest of \d+$", shown, re.MULTILINE) == ["scores", "again"]
    assert (tmp_path / "next.html").exists()


def test_the_page_has_the_keys_of_the_gallery() -> None:
    script = (DOCS.parent / "lsstcutouts" / "app" / "gallery" / "page_keys.js").read_text()
    handled = re.search(r"const KEYS = \{(.*?)^\};", script, re.MULTILINE | re.DOTALL)[1]
    keys = {key for key in re.findall(r'^ {2}"?([^\s":]+)"?: ', handled, re.MULTILINE) if len(key) == 1} - {"="}
    table = re.findall(r"^\| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    words = {word for cell in table for word in re.split(r"[ ,]+", cell) if len(word) == 1}
    assert keys == words - set("19a")  # "1 to 9", "a double click"
