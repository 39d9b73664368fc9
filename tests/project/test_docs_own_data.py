"""The page docs/own-data.md: its programs and commands run as they stand, one after the other, in one folder."""

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread

from lsstcutouts.app.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"

pytestmark = [
    # What Lightning says about runs as short as a page's.
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:No .* samples in targets:UserWarning"),
    pytest.mark.filterwarnings("ignore:The `loggers.*|.*already exists:UserWarning"),
]


NAME = re.compile(r"^# ([\w/]+\.(?:py|yaml))$", re.MULTILINE)
"""The line of a block that says which file it is."""


def blocks() -> Iterator[tuple[str, str]]:
    """Yield language and text of each block of code."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for kind, text in blocks() if kind == "sh" for line in text.splitlines()]
    return [shlex.split(line) for line in lines]


def test_every_block_is_run() -> None:
    assert {kind for kind, _ in blocks()} == {"sh", "python", "yaml"}
    assert all(command[0] == "lsstcutouts" for command in commands())
    for kind, text in blocks():
        assert kind == "sh" or NAME.search(text)


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, text in blocks():
        if kind == "sh":
            for command in map(shlex.split, text.splitlines()):
                # The example's network is too large for a test; the number of threads leaves the other tests a core.
                extra = ["data.cache_bytes=100 MB", "data.threads=1"] if command[1] in {"train", "predict"} else []
                status = main([*command[1:], *extra])
                shown = capsys.readouterr()
                assert status == 0, f"{shlex.join(command)}\n{shown.err}"
            continue
        file = tmp_path / NAME.search(text)[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)  # all of it, as a reader copies it
        if file.stem.startswith("make_") or file.stem in {"my_loop", "my_pictures"}:
            runpy.run_path(str(file), run_name="__main__")
    assert "delivered" in capsys.readouterr().out

    kinds, mags, net = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("kinds", "mags", "net"))
    labels = sorted(set(pq.read_table(tmp_path / "sky" / "truth.parquet")["kind"].to_pylist()))
    assert {"predicted", "score", *(f"score_{kind}" for kind in labels)} <= set(kinds.column_names)
    assert set(kinds["predicted"].to_pylist()) <= {*labels, None}
    assert sum(value is not None for value in mags["predicted"].to_pylist()) > 70
    assert all(0 <= value <= 1 for value in net["score"].to_pylist() if value is not None)
    hats = pq.read_table(tmp_path / "hats.parquet")
    assert 0 < len(hats) <= 80
    for name in ("outputs/train", "outputs/hats", "outputs/kind", "outputs/mag", "outputs/net"):
        assert (tmp_path / name / "metrics.json").is_file()
        assert imread(tmp_path / name / "mosaic.png").shape[1] > 500
    assert imread(tmp_path / "colours.png").shape[1] > 500
