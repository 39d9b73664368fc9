"""Places of values in Parquet files are those that pyarrow reads; what is not certain is refused."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.read.exports.pages import Chunk, ChunkValues, locate_values, parse_page_header

TYPES = ("<f4", "<f2", "<i4", "<f8", "?")


def table_of(values: np.ndarray, nulls: np.ndarray) -> pa.Table:
    """Return a column of lists of a fixed size."""
    array: Any = pa.array(values.reshape(-1))
    for size in reversed(values.shape[2:]):
        array = pa.FixedSizeListArray.from_arrays(
            array, type=pa.list_(pa.field("element", array.type, nullable=False), size)
        )
    kind = pa.list_(pa.field("element", array.type, nullable=False), values.shape[1])
    return pa.table({"x": pa.FixedSizeListArray.from_arrays(array, type=kind, mask=pa.array(nulls))})


def located(path: Path, row_values: int, bits: int) -> list[ChunkValues | None]:
    """Return where the values of each row group stand."""
    data = path.read_bytes()
    footer = pq.read_metadata(path)
    leaf = footer.schema.column(0)
    found = []
    for group in (footer.row_group(at) for at in range(footer.num_row_groups)):
        chunk = group.column(0)
        about = Chunk(
            chunk.data_page_offset,
            chunk.total_compressed_size,
            chunk.num_values,
            group.num_rows,
            leaf.max_repetition_level > 0,
            leaf.max_definition_level > 0,
        )
        found.append(locate_values(lambda at, length: data[at : at + length], about, row_values, bits))
    return found


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    rows=st.integers(1, 40),
    group=st.integers(1, 17),
    dtype=st.sampled_from(TYPES),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    statistics=st.booleans(),
)
def test_values_stand_where_they_are_located(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    shape: list[int],
    rows: int,
    group: int,
    dtype: str,
    share: float,
    statistics: bool,
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (rows, *shape)).astype(dtype)
    if dtype == "?":
        values = rng.random((rows, *shape)) < 0.5
    nulls = rng.random(rows) < share
    path = tmp_path_factory.getbasetemp() / f"pages-{os.getpid()}.parquet"
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": statistics}
    pq.write_table(table_of(values, nulls), path, row_group_size=group, data_page_size=2**30, **options)
    count, bits = int(np.prod(shape)), 1 if dtype == "?" else 8 * values.dtype.itemsize
    data = np.fromfile(path, np.uint8)
    for at, found in enumerate(located(path, count, bits)):
        mine = slice(at * group, (at + 1) * group)
        wanted = values[mine][~nulls[mine]]
        if found is None:
            assert dtype == "?"
            assert count == 1
            continue
        assert found.rows == len(wanted)
        stored = data[found.offset : found.offset + -(-wanted.size * bits // 8)]
        if dtype == "?":
            np.testing.assert_array_equal(np.unpackbits(stored, bitorder="little")[: wanted.size], wanted.reshape(-1))
        else:
            assert stored.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"data_page_version": "2.0"},
        {"data_page_size": 64, "write_batch_size": 4},
        {"use_byte_stream_split": True},
    ],
)
def test_other_pages_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    values = np.arange(20 * 6, dtype=np.float32).reshape(20, 2, 3)
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False, "data_page_size": 2**30}
    pq.write_table(table_of(values, np.zeros(20, bool)), tmp_path / "x.parquet", **plain)
    assert located(tmp_path / "x.parquet", 6, 32) != [None]
    assert located(tmp_path / "x.parquet", 5, 32) == located(tmp_path / "x.parquet", 6, 64) == [None]
    pq.write_table(table_of(values, np.zeros(20, bool)), tmp_path / "x.parquet", **plain | options)
    assert located(tmp_path / "x.parquet", 6, 32) == [None]


@given(st.binary(max_size=60))
def test_any_bytes_are_a_header_or_none(data: bytes) -> None:
    header = parse_page_header(data)
    assert header is None or 0 < header.length <= len(data)


def test_a_header_that_is_cut_is_none(tmp_path: Path) -> None:
    values = np.zeros((3, 2, 2), np.float32)
    pq.write_table(
        table_of(values, np.zeros(3, bool)), tmp_path / "x.parquet", compression="none", use_dictionary=False
    )
    start = pq.read_metadata(tmp_path / "x.parquet").row_group(0).column(0).data_page_offset
    data = (tmp_path / "x.parquet").read_bytes()[start:]
    whole = parse_page_header(data)
    assert whole is not None
    assert whole.values == 12
    assert whole.plain
    for end in range(whole.length):
        assert parse_page_header(data[:end]) is None
    assert parse_page_header(data[: whole.length]) == whole
