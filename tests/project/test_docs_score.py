"""The page docs/score-a-release.md: its commands and programs run as they stand, and so does the script of its array of jobs."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lsstcutouts.app.cli import main

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "score-a-release.md"
FILE = re.compile(r"^# (\w+\.py)$", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning, Dask and pandas, about a sky as small as this one
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shown = ""
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if kind == "sh":
            for command in map(shlex.split, text.splitlines()):
                assert main(command[1:]) == 0, f"{shlex.join(command)}\n{capsys.readouterr().err}"
            continue
        name = FILE.search(text)[1]
        (tmp_path / name).write_text(text)
        runpy.run_path(name)
        shown += capsys.readouterr().out
    assert re.search(r"^\d+ of 80 objects$", shown, re.MULTILINE)
    rows = pq.read_table("scores/predictions/dataset", partitioning=None)
    assert sorted(rows["object_id"].to_pylist()) == sorted(pq.read_table("sky/truth.parquet")["object_id"].to_pylist())
    assert 0 < len(pq.read_table("bright/predictions/dataset", partitioning=None)) < 80

    settings = ["checkpoint=trained/model.ckpt", "catalog=objects", "output=by slurm", "trainer=cpu"]
    variables = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_ARRAY_TASK_COUNT": "1",
    }
    script = ["bash", str(DOCS / "slurm" / "predict.sbatch"), *settings]
    subprocess.run(script, check=True, env=os.environ | variables, timeout=200, capture_output=True)
    assert json.loads(Path("by slurm/report.json").read_text())["complete"] is True
    table = pq.read_table("by slurm/predictions/dataset", partitioning=None)
    assert table.sort_by("object_id").equals(rows.sort_by("object_id"))


def test_the_page_names_existing_settings_only() -> None:
    """Of the settings in its blocks that are not run."""
    configuration = (DOCS.parent / "configs" / "predict.yaml").read_text()
    for text in re.findall(r"^```\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for line in text.splitlines():
            if line.startswith("lsstcutouts predict"):
                names = {word.partition("=")[0] for word in shlex.split(line)[2:]}
                for name in names - {"catalog", "data.repo", "data.threads", "scheduler"}:
                    assert re.search(rf"^{name}:", configuration, re.MULTILINE), name
