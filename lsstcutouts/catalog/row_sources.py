"""Where the rows of a partition are: a file of HATS, a partition of LSDB, or a table in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from ..errors import CatalogError
from .hats_table import translated

__all__ = ["HatsRows", "LsdbRows", "RowSource", "TableRows", "frame_to_arrow"]


class RowSource(Protocol):
    """Where the rows of a partition are; pickles, so that other processes can read them."""

    def read(self, names: Sequence[str]) -> pa.Table:
        """Return columns of all rows, in the order of the file."""
        ...


@dataclass(frozen=True)
class HatsRows:
    """A partition of a HATS catalog."""

    path: Any
    """File, or folder of files, as ``UPath``."""
    label: str

    def read(self, names: Sequence[str]) -> pa.Table:
        """Return columns of all rows, in the order of the file."""
        from hats.io.file_io import read_parquet_dataset

        remedy = "the list of partitions names this file; copy the catalog again, or repair it with hats-import"
        with translated(self.label, remedy):
            dataset = read_parquet_dataset(self.path)[1]
            if lacking := [name for name in names if name not in dataset.schema.names]:
                raise CatalogError(f"{self.label} has no column {lacking[0]!r}, which the schema names; {remedy}.")
            return dataset.to_table(columns=list(names))


@dataclass(frozen=True)
class LsdbRows:
    """A partition of a catalog of LSDB: it is computed where it is read."""

    partition: Any
    label: str

    def read(self, names: Sequence[str]) -> pa.Table:
        """Return columns of all rows."""
        with translated(self.label, "check the files of the catalog"):
            frame = self.partition.compute(scheduler="synchronous")
        return frame_to_arrow(frame, names)


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows of a table in memory."""

    table: pa.Table

    def read(self, names: Sequence[str]) -> pa.Table:
        """Return columns of all rows."""
        return self.table.select(list(names))


def frame_to_arrow(frame: Any, names: Sequence[str]) -> pa.Table:
    """Return columns of a pandas frame; its index becomes a column if it is asked for."""
    named = frame.reset_index() if frame.index.name in names and frame.index.name not in frame.columns else frame
    return pa.Table.from_pandas(named[list(names)], preserve_index=False).replace_schema_metadata(None)
