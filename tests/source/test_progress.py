"""Progress bars: where they are shown, and what they count."""

import io
import sys

import pytest
from rich.console import Console

from lsstcutouts.source.progress import counted, progress_bar


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is shown, on a terminal."""
    shown = io.StringIO()
    monkeypatch.setattr(
        "lsstcutouts.source.progress.Console", lambda **_: Console(file=shown, force_terminal=True, width=90)
    )
    return shown


def test_a_bar_counts_to_the_end(terminal: io.StringIO) -> None:
    with progress_bar("doing [x]", 7, stays=True) as update:
        for done in range(1, 8):
            update(done, state=f"state {done}")
    last = terminal.getvalue().split("doing [x]")[-1]
    assert "7/7" in last
    assert "state 7" in last


def test_bytes_and_an_unknown_total(terminal: io.StringIO) -> None:
    with progress_bar("fetching", of_bytes=True, stays=True) as update:
        update(10**6)
        update(2 * 10**6, 4 * 10**6)
    assert "2.0/4.0 MB" in terminal.getvalue()


def test_no_bar_is_shown_if_it_is_not_wanted(terminal: io.StringIO) -> None:
    with progress_bar("doing", 3, shown=False) as update:
        update(3)
    assert terminal.getvalue() == ""


def test_counted_is_a_function_a_bar_or_nothing(terminal: io.StringIO) -> None:
    seen = []
    with counted("x", lambda done, total: seen.append((done, total))) as update:
        update(1, 2)
    with counted("x", progress=False) as update:
        assert update is None
    with counted("x", progress=True) as update:
        update(1, 2)
    assert seen == [(1, 2)]
    assert "1/2" in terminal.getvalue()


def test_nothing_but_the_end_is_written_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert not sys.stderr.isatty()
    with progress_bar("doing", 2) as update:
        update(1)
        update(2)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.strip() == ""
