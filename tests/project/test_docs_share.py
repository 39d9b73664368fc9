"""The pages docs/exports.md and docs/share-cutouts.md: their commands and programs run as they stand, and the table of columns has each."""

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lsstcutouts.app.cli import main
from lsstcutouts.errors import PlaneError
from lsstcutouts.read.exports.multimodal import multimodal_examples

PAGE = Path(__file__).parents[2] / "docs" / "share-cutouts.md"
EXPORTS = PAGE.with_name("exports.md")
FILE = re.compile(r"^# (\w+\.py)$", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:No .* samples in targets:UserWarning")
def test_the_page_of_exports_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in re.findall(r"^```sh\n(.*?)^```$", EXPORTS.read_text(), re.MULTILINE | re.DOTALL):
        for line in text.splitlines():
            extra = ["data.threads=1", "data.cache_bytes=100 MB"] if " train " in line else []
            assert main([*shlex.split(line)[1:], *extra]) == 0, line
    assert "80 rows of 1 partitions compared" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Dask and pandas, which the page's programs import
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shown = ""
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if kind == "sh":
            assert [main(shlex.split(line)[1:]) for line in text.splitlines()] == [0] * len(text.splitlines())
            continue
        name = FILE.search(text)[1]
        (tmp_path / name).write_text(text)
        runpy.run_path(name)
        shown += capsys.readouterr().out
    assert re.search(r"^\d+ cutouts, \(\d+, 3, 32, 32\) \['g', 'r', 'i'\]$", shown, re.MULTILINE)
    assert re.search(r"^\d+ g \(32, 32\) \d\.\d+ 0\.\d+$", shown, re.MULTILINE)

    rows = pq.read_table("cutouts/cutouts/dataset", partitioning=None)
    catalog = set(pq.read_schema("sky/truth.parquet").names)
    page = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert set(rows.column_names) - catalog <= page
    examples = list(multimodal_examples(rows))
    assert len(examples) == len(rows) == 80
    assert [one["object_id"] for one in examples] == list(map(str, rows["object_id"].to_pylist()))
    n = 17
    for b in range(3):
        image = examples[n]["image"][b]
        variance = np.array(rows["variance"][n].as_py(), np.float32)[b]
        valid = np.array(rows["valid"][n].as_py())[b]
        assert np.array_equal(image["mask"], valid)
        assert np.array_equal(image["ivar"], np.where(valid & (variance > 0), 1 / variance, 0).astype(np.float32))
        assert np.array_equal(image["flux"], np.array(rows["flux"][n].as_py(), np.float32)[b])
    with pytest.raises(PlaneError, match="export them"):
        next(multimodal_examples(rows.drop_columns(["variance"])))
