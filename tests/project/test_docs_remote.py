"""The pages on remote repositories: the notebook runs against a Butler server, and the pages name what there is."""

import json
import re
from pathlib import Path

import matplotlib as mpl
import pyarrow.parquet as pq
import pytest
from matplotlib import pyplot as plt

from lsstcutouts.app.doctor import CHECKS

from ..support.platform.science_platform import Platform, Published

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTEBOOK = DOCS / "notebooks" / "science-platform.ipynb"
POSITIONS = "ra, dec = [53.10, 53.12, 53.14], [-28.10, -28.08, -28.06]"


def code() -> list[str]:
    """Return the text of the notebook's cells of code."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_runs(
    platform: Platform,
    remote_dp2: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAF_BUTLER_REPOSITORY_INDEX", platform.index)
    monkeypatch.setenv("LSSTCUTOUTS_CACHE", str(tmp_path / "cache"))
    mpl.use("agg")
    truth = pq.read_table(remote_dp2.local.truth)
    positions = f"ra, dec = {truth['ra'][:3].to_pylist()}, {truth['dec'][:3].to_pylist()}"
    cells = [cell.replace(POSITIONS, positions) for cell in code()]
    assert cells != code()
    exec("\n".join(cells), {"__name__": "__main__"})
    plt.close("all")
    shown = capsys.readouterr().out
    assert "(3, 3, 64, 64)" in shown
    assert "delivered" in shown
    assert (tmp_path / "plan.parquet").is_file()
    assert (tmp_path / "cache").is_dir()


def test_every_variable_of_the_package_is_in_the_table() -> None:
    found = set()
    for path in (ROOT / "lsstcutouts").glob("**/*.py"):
        found |= set(re.findall(r"\"(LSSTCUTOUTS_[A-Z_]*[A-Z])\"", path.read_text()))
    listed = set(re.findall(r"`(LSSTCUTOUTS_[A-Z_]+)[`=]", (DOCS / "environment.md").read_text()))
    assert found <= listed
    assert listed <= found | {"LSSTCUTOUTS_CUDA"}


def test_the_page_on_tokens_names_the_lines_of_the_doctor() -> None:
    page = (DOCS / "laptop.md").read_text()
    lines = page.partition("| line | what it tests |")[2].partition("\n\n")[0]
    remote = [check.title for check in CHECKS.values() if check.remote]
    assert set(re.findall(r"^\| (\w[^|]*?) \|", lines, re.MULTILINE)) == {*remote, CHECKS["repository"].title}
