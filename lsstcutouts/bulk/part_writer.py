"""Writes the Parquet files of an export: uncompressed, in small row groups, so that rows can be read at their places."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..read.exports.export_description import PLANE_COLUMNS, ExportDescription
from ..source.writing import atomic_file

__all__ = ["PartWriter", "group_rows", "part_writer"]

_GROUP_BYTES = 2**22
"""Bytes of a plane in a row group (docs/layouts.md): of smaller groups, the other columns take a third of the time to write."""

_LEAST_ROWS, _MOST_ROWS = 64, 8192
"""Rows of a row group."""

_PIXELS = frozenset([*PLANE_COLUMNS.values(), "mask"])


def group_rows(description: ExportDescription) -> int:
    """Return the rows of a row group, a power of two."""
    plane = 4 * len(description.bands) * description.size.y * description.size.x
    return min(max(_LEAST_ROWS, 1 << max(0, (_GROUP_BYTES // plane).bit_length() - 1)), _MOST_ROWS)


class PartWriter:
    """Writes one file, table after table."""

    def __init__(self, path: Path, group_rows: int) -> None:
        self._path, self._group_rows = path, group_rows
        self._writer: Any = None
        self.rows = 0

    def write(self, table: pa.Table) -> None:
        """Append rows, a multiple of those of a group except at the end."""
        if self._writer is None:
            names = [name for name in table.column_names if name not in _PIXELS]
            self._writer = pq.ParquetWriter(
                self._path,
                table.schema,
                compression="none",
                use_dictionary=False,
                write_statistics=[_leaf(table.schema.field(name)) for name in names],
                data_page_size=2**30,
            )
        self._writer.write_table(table, row_group_size=self._group_rows)
        self.rows += len(table)

    def close(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def part_writer(path: Path, rows: int) -> Iterator[PartWriter]:
    """Yield a writer of a file, in row groups of so many rows, that appears complete or not at all."""
    with atomic_file(path) as part:
        writer = PartWriter(part, rows)
        try:
            yield writer
        finally:
            writer.close()


def _leaf(field: pa.Field) -> str:
    """Return the path of a column in Parquet."""
    path, kind = str(field.name), field.type
    while pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        path, kind = f"{path}.list.element", kind.value_type
    return path
