"""Where the rows of a partition are: a file of HATS, a partition of LSDB, or a table in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..errors import CatalogError
from .hats_table import translated

__all__ = ["FrameRows", "HatsRows", "LsdbRows", "RowSource", "StreamedRows", "TableRows", "frame_to_arrow"]

_REMEDY = "the list of partitions names this file; copy the catalog again, or repair it with hats-import"

_BATCH = 4096
"""Rows that are read at a time."""

_BUFFER = 2**18
"""Bytes that are read of a column at a time: without a buffer, all of a row group."""


class RowSource(Protocol):
    """Where the rows of a partition are; pickles, so that other processes can read them."""

    def read(self, names: Sequence[str]) -> pa.Table:
        """Return columns of all rows, in the order of the file."""
        ...

    def stream(self, names: Sequence[str]) -> "Iterator[pa.Table] | None":
        """Yield columns of all rows, some thousand at a time; None if that needs as much memory as `read`."""
        ...


class StreamedRows:
    """Columns of some rows of a partition that are read when they are asked for, from first to last.

    Parameters
    ----------
    source
        Of all rows.
    names
        Of the columns.
    place
        ``(n,)`` of each row in the source, ascending.
    """

    def __init__(self, source: RowSource, names: Sequence[str], place: NDArray[np.int64]) -> None:
        self._source, self._names, self._place = source, names, place
        self._tables: Iterator[pa.Table] | None = None
        self._table = pa.table({})
        self._start = 0  # place of the first row of the table

    def __len__(self) -> int:
        return len(self._place)

    @property
    def row_bytes(self) -> float:
        """Bytes of a row, about: those of the first ones."""
        first = next(self._begin(), None)
        return first.nbytes / max(1, len(first)) if first is not None else 0.0

    def slice(self, start: int, length: int) -> pa.Table:
        """Return some rows; going back reads the file from its begin again."""
        place = self._place[start : start + length]
        if self._tables is None or (len(place) and place[0] < self._start):
            self._tables = self._begin()
            self._table, self._start = next(self._tables), 0
        if not len(place):
            return self._table.slice(0, 0)
        parts = []
        while True:
            end = self._start + len(self._table)
            mine = place[np.searchsorted(place, self._start) : np.searchsorted(place, end)] - self._start
            parts.append(self._table.take(pa.array(mine)))
            if place[-1] < end:
                return pa.concat_tables(parts).combine_chunks()
            self._table, self._start = next(self._tables), end

    def _begin(self) -> Iterator[pa.Table]:
        tables = self._source.stream(self._names)
        return iter(()) if tables is None else tables


@dataclass(frozen=True)
class HatsRows:
    """A partition of a HATS catalog."""

    path: Any
    """File, or folder of files, as ``UPath``."""
    label: str

    def read(self, names: Sequence[str]) -> pa.Table:
        """Return columns of all rows, in the order of the file."""
        from hats.io.file_io import read_parquet_dataset

        with translated(self.label, _REMEDY):
            dataset = read_parquet_dataset(self.path)[1]
            self._check(names, dataset.schema.names)
            return dataset.to_table(columns=list(names))

    def _check(self, names: Sequence[str], there: Sequence[str]) -> None:
        if lacking := [name for name in names if name not in there]:
            raise CatalogError(f"{self.label} has no column {lacking[0]!r}, which the schema names; {_REMEDY}.")

    def stream(self, names: Sequence[str]) -> Iterator[pa.Table] | None:
        """Yield columns of all rows, some thousand at a time; None for a folder of files, whose rows have no order."""
        if not str(self.path).endswith(".parquet") or not names:
            return None
        return self._batches(names)

    def _batches(self, names: Sequence[str]) -> Iterator[pa.Table]:
        with (
            translated(self.label, _REMEDY),
            self.path.open("rb") as file,
            pq.ParquetFile(file, buffer_size=_BUFFER) as parquet,
        ):
            self._check(names, parquet.schema_arrow.names)
            for batch in parquet.iter_batches(_BATCH, columns=list(names), use_threads=False):
                yield pa.Table.from_batches([batch])


@dataclass(frozen=True)
class LsdbRows:
    """A partition of a catalog of LSDB: it is computed where it is read."""

    partition: Any
    """``Delayed``, whose graph has this partition only."""
    label: str

    def read(self, names: Sequence[str]) -> pa.Table:
        """Return columns of all rows."""
        with translated(self.label, "check the files of the catalog"):
            frame = self.partition.compute(scheduler="synchronous")
        return frame_to_arrow(frame, names)

    def stream(self, names: Sequence[str]) -> Iterator[pa.Table] | None:  # noqa: ARG002 - LSDB computes whole partitions
        """Return None."""
        return None


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of a table in memory."""

    table: pa.Table

    def read(self, names: Sequence[str]) -> pa.Table:
        """Return columns of all rows."""
        return self.table.select(list(names))

    def stream(self, names: Sequence[str]) -> Iterator[pa.Table] | None:  # noqa: ARG002 - the table is in memory
        """Return None."""
        return None


@dataclass(frozen=True, eq=False)
class FrameRows:
    """Rows of a pandas frame, as ``map_partitions`` of LSDB hands them over."""

    frame: Any

    def read(self, names: Sequence[str]) -> pa.Table:
        """Return columns of all rows."""
        return frame_to_arrow(self.frame, names)

    def stream(self, names: Sequence[str]) -> Iterator[pa.Table] | None:  # noqa: ARG002 - the frame is in memory
        """Return None."""
        return None


def frame_to_arrow(frame: Any, names: Sequence[str]) -> pa.Table:
    """Return columns of a pandas frame; its index becomes a column if it is asked for."""
    named = frame.reset_index() if frame.index.name in names and frame.index.name not in frame.columns else frame
    return pa.Table.from_pandas(named[list(names)], preserve_index=False).replace_schema_metadata(None)
