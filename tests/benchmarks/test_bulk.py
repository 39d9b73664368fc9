"""The benchmark of exports runs, on a tiny repository."""

import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from benchmarks.bulk import main

TINY = ("rows=300", "partition_rows=60", "patches=2", "cells=2", "cell=60", "size=12", "bands=gr", "wide_rows=1500")


@pytest.mark.long
@pytest.mark.system
def test_the_benchmark_of_exports_prints_figures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    more = ("memory_rows=[1500,3000]", "memory_partition_rows=1000", "tasks=20", f"image={tmp_path / 'image.png'}")
    main([f"folder={tmp_path / 'bulk'}", *TINY, *more])
    rows = {row["case"]: row for row in json.loads(capfd.readouterr().out)["figures"]}
    assert rows["restart"]["cutouts read"] == 0
    assert rows["export, 2 Dask workers"]["over 1 worker"] > 0
    assert rows["memory, 3,000 rows"]["over the first"] > 0
    assert rows["scheduler, 20 partitions"]["largest process, MB"] > 0
    assert imread(tmp_path / "image.png").ndim == 3
