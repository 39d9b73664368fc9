"""Layouts of an export give the same bits, on a few rows."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.layouts import LayoutSettings, RawLayout, cached, drop, layouts_of, main, measure_layouts
from lsstcutouts.errors import PixelMismatchError

FEW = {"rows": 70, "size": 5, "bands": "gr", "batch_size": 8, "partition_bytes": 6000, "repeats": 1, "seconds": 0.0}


def settings(folder: Path, **more: object) -> LayoutSettings:
    return LayoutSettings(folder=str(folder), cold_seconds=0.0, **{**FEW, **more})


def test_every_layout_is_checked_and_measured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main([f"folder={tmp_path}", "cold_seconds=0", *(f"{name}={value}" for name, value in FEW.items())])
    found = json.loads(capfd.readouterr().out)
    *figures, memory, read = found["figures"]
    assert [row["layout"] for row in figures] == [layout.name for layout in layouts_of(settings(tmp_path))]
    rates = [value for row in figures for name, value in row.items() if name.startswith(("warm", "cold"))]
    assert len(rates) == 8 * len(figures)
    assert min(rates) > 0
    assert memory["warm rows of all partitions"] > 0
    assert read["cold partitions"] > 0
    assert {"pyarrow", "zarr"} <= found["machine"]["packages"].keys()
    assert list(tmp_path.iterdir()) == []


def test_layouts_of_the_same_files_are_beside_each_other(tmp_path: Path) -> None:
    files = [layout.files for layout in layouts_of(settings(tmp_path))]
    runs = [name for at, name in enumerate(files) if not at or files[at - 1] != name]
    assert len(runs) == len(set(runs)) < len(files)


def test_other_pixels_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_row = RawLayout.rows

    def off(self: RawLayout, part: int, rows: np.ndarray, out: np.ndarray) -> None:
        one_row(self, part, rows, out)
        out.view(np.uint32)[0, 0, 0, 0] ^= 1

    monkeypatch.setattr(RawLayout, "rows", off)
    with pytest.raises(PixelMismatchError, match="npy"):
        measure_layouts(settings(tmp_path, only="npy"))
    assert list(tmp_path.iterdir()) == []

    whole = RawLayout.in_order

    def short(self: RawLayout, part: int) -> Iterator[np.ndarray]:
        yield from whole(self, part) if part < 2 else ()

    monkeypatch.setattr(RawLayout, "in_order", short)
    with pytest.raises(PixelMismatchError, match="60 rows were read, 70 were written"):
        measure_layouts(settings(tmp_path, only="npy"))


def test_dropped_files_are_not_in_the_page_cache(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as open_file:
        open_file.write(bytes(2**20))
        open_file.flush()
        os.fsync(open_file.fileno())  # what is not yet on the disk stays in the cache
    assert cached([file]) == 1.0
    if drop([file]) == 1.0:
        pytest.skip("this file system keeps its files in memory, so that nothing is ever cold")
    assert cached([file]) == 0.0
    file.read_bytes()
    assert cached([file]) == 1.0


@pytest.mark.parametrize("kind", ["fixed", "list", "defaults", "pages"])
def test_parquet_is_not_compressed(tmp_path: Path, kind: str) -> None:
    layout = next(
        one for one in layouts_of(settings(tmp_path, only="groups of 64")) if getattr(one, "kind", "") == kind
    )
    layout.write(tmp_path, np.zeros((70, 2, 5, 5), np.float32))
    found = pq.read_metadata(tmp_path / "part.parquet")
    assert found.num_row_groups == 2
    image = found.row_group(0).column(3)
    assert image.compression == "UNCOMPRESSED"
    assert ("RLE_DICTIONARY" in image.encodings) == (kind == "defaults")
    assert image.has_offset_index == (kind == "pages")
