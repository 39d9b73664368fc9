"""Partitions of large catalogs: their rows, what is read of them, and what makes a catalog another one."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import lsdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.catalog.partitions import LargeCatalog, PartitionRows, to_arrow_column
from lsstcutouts.catalog.row_sources import HatsRows, StreamedRows, TableRows
from lsstcutouts.errors import CatalogError, ConfigurationError, EmptyCatalogError

from ..support.examples import examples
from ..support.hats import divided, write_catalog

SIZES = {"row_bytes": 1000, "most_bytes": 20_000}


def table(rows: int = 300) -> pa.Table:
    rng = np.random.default_rng(8)
    columns = {"object_id": np.arange(rows) + 7, "ra": rng.uniform(9, 12, rows), "dec": rng.uniform(-3, 2, rows)}
    return pa.table({**columns, "mag": rng.uniform(18, 26, rows), "name": [f"n{i}" for i in range(rows)]})


@pytest.fixture(scope="module")
def hats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("catalogs") / "some rows", divided(table(), 40), group_rows=16)


def all_rows(catalog: LargeCatalog) -> list[PartitionRows]:
    found = []
    for partition in catalog.partitions():
        try:
            found.append(pickle.loads(pickle.dumps(catalog)).read(pickle.loads(cloudpickle.dumps(partition))))
        except EmptyCatalogError:
            continue
    return found


@pytest.mark.parametrize("kind", ["hats", "lsdb", "table"])
@pytest.mark.parametrize(
    "subset", [{}, {"select": "mag < 21"}, {"cone": [10.5, 0, 1.0]}], ids=["all", "select", "cone"]
)
def test_all_rows_once_along_the_sky(hats: Path, kind: str, subset: dict[str, Any]) -> None:
    source = {"hats": hats, "lsdb": lsdb.open_catalog(hats), "table": table()}[kind]
    catalog = LargeCatalog.open(source, **SIZES, **subset)
    rows = all_rows(catalog)
    healpix = np.concatenate([one.healpix for one in rows])
    assert (np.diff(healpix) >= 0).all()
    frame = table().to_pandas()
    if "select" in subset:
        frame = frame[frame.mag < 21]
    if "cone" in subset:
        frame = frame[np.hypot((frame.ra - 10.5) * np.cos(np.radians(frame.dec)), frame.dec) < 1.0]
    ids = np.concatenate([one.catalog.object_id for one in rows])
    assert set(ids) == set(frame.object_id)
    assert len(ids) == len(frame)
    by_id = frame.set_index("object_id")
    for one in rows:
        copied = one.table.slice(0, len(one))
        np.testing.assert_array_equal(copied["mag"].to_numpy(), by_id.loc[one.catalog.object_id, "mag"])
        assert copied["name"].to_pylist() == by_id.loc[one.catalog.object_id, "name"].to_list()
        assert one.copied_bytes > 8
    for cell, one in zip(catalog.cells, rows, strict=False):
        if len(rows) == len(catalog):
            assert cell.bounds[0] <= one.healpix[0] <= one.healpix[-1] < cell.bounds[1]


def test_a_partition_of_a_table_pickles_with_its_own_rows_only() -> None:
    catalog = LargeCatalog.open(table(20_000), row_bytes=1000, most_bytes=100_000)
    sizes = [len(pickle.dumps(partition)) for partition in catalog.partitions()]
    assert max(sizes) < 20_000
    assert len(pickle.dumps(catalog)) < 10_000 + 40 * len(catalog)


class Counted(TableRows):
    """Yields a table in parts, and notes where it was."""

    def __init__(self, rows: pa.Table, step: int) -> None:
        object.__setattr__(self, "table", rows)
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "begun", [])

    def stream(self, names: Sequence[str]) -> Any:
        self.begun.append(len(self.begun))  # type: ignore[attr-defined]
        step = self.step  # type: ignore[attr-defined]
        return (self.table.select(list(names)).slice(at, step) for at in range(0, len(self.table), step))


@given(st.data())
@examples(100)
def test_streamed_rows_are_those_of_the_table(data: st.DataObject) -> None:
    rows = table(50)
    kept = np.array(sorted(data.draw(st.sets(st.integers(0, 49), min_size=1))), np.int64)
    source = Counted(rows, data.draw(st.integers(1, 60)))
    streamed = StreamedRows(source, ["mag", "name"], kept)
    whole = rows.select(["mag", "name"]).take(pa.array(kept))
    assert len(streamed) == len(kept)
    at = 0
    while at < len(kept):
        count = data.draw(st.integers(0, len(kept) - at))
        assert streamed.slice(at, count).equals(whole.slice(at, count).combine_chunks())
        at += max(count, 1)
    assert len(source.begun) == 1  # type: ignore[attr-defined]
    assert streamed.slice(0, 1).equals(whole.slice(0, 1).combine_chunks())


def test_a_file_that_lacks_a_column_is_named(hats: Path, tmp_path: Path) -> None:
    parts = list(divided(table(), 40))
    write_catalog(tmp_path / "lacking", parts)
    file = next((tmp_path / "lacking").rglob("Npix=*.parquet"))
    pa.parquet.write_table(pa.parquet.ParquetFile(file).read().drop_columns("mag"), file)
    catalog = LargeCatalog.open(tmp_path / "lacking", **SIZES)
    rows = all_rows(catalog)
    with pytest.raises(CatalogError, match="no column 'mag'"):
        assert [one.table.slice(0, len(one)) for one in rows]


def test_identities(hats: Path, tmp_path: Path) -> None:
    opened = lsdb.open_catalog(hats)
    sources = [hats, table(), opened, opened.query("mag < 20"), opened.query("mag < 21"), table(299)]
    found = [LargeCatalog.open(source, **SIZES).identity for source in sources]
    assert len(set(found)) == len(found)
    assert [LargeCatalog.open(source, **SIZES).identity for source in sources] == found
    assert LargeCatalog.open(opened.query("mag < 20"), **SIZES).identity == found[3]


def test_own_columns_are_not_copied(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    rows = table().append_column("flux", pa.array(np.zeros(300))).append_column("patch", pa.array(np.zeros(300)))
    catalog = LargeCatalog.open(write_catalog(tmp_path / "own", divided(rows, 100)), **SIZES)
    assert catalog.columns == ("mag", "name")
    assert "the columns flux are not copied" in caplog.text


def test_catalogs_without_ids_or_columns(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path / "bare", divided(table().drop_columns("object_id"), 100))
    with pytest.raises(ConfigurationError, match="object_id=_healpix_29"):
        LargeCatalog.open(folder, **SIZES)
    catalog = LargeCatalog.open(folder, **SIZES, object_id="_healpix_29", columns=[])
    assert sum(len(rows) for rows in all_rows(catalog)) == 300
    with pytest.raises(CatalogError, match="no column 'mga'"):
        LargeCatalog.open(folder, **SIZES, object_id="_healpix_29", columns=["mga"])


def test_columns_of_arrays() -> None:
    values = np.arange(24).reshape(4, 3, 2)
    array = to_arrow_column(values)
    assert array.to_pylist() == values.tolist()
    assert to_arrow_column(["a", "b"]).to_pylist() == ["a", "b"]
    assert HatsRows("folder", "label").stream(["a"]) is None
