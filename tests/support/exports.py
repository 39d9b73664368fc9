"""What is in an export, read without the package: the rows of all partitions along the sky."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["files_of", "planes_of", "rows_of", "tables_of"]


def files_of(folder: Path) -> list[Path]:
    """Return the files of the partitions along the sky."""

    def start(file: Path) -> int:
        order, pixel = (int(part.split("=")[1]) for part in (file.parts[-3], file.stem))
        return pixel << 2 * (29 - order)

    return sorted((folder / "cutouts").glob("dataset/Norder=*/Dir=*/Npix=*.parquet"), key=start)


def rows_of(folder: Path) -> pa.Table:
    """Return all rows."""
    return pa.concat_tables([pq.ParquetFile(file).read() for file in files_of(folder)]).combine_chunks()


def planes_of(rows: pa.Table, name: str) -> Any:
    """Return the values ``(m, ...)`` of a column of lists, of rows where it is not null."""
    column = rows[name].drop_null().combine_chunks()
    shape = [len(column)]
    while pa.types.is_fixed_size_list(column.type) or pa.types.is_list(column.type):
        shape.append(column.type.list_size if pa.types.is_fixed_size_list(column.type) else -1)
        column = column.flatten()
    return column.to_numpy(zero_copy_only=False).reshape(shape)


def tables_of(folder: Path) -> dict[str, pa.Table]:
    """Return every Parquet file of an export by its path, without the metadata of the finished partitions, which hold times."""
    files = [path for path in folder.rglob("*.parquet") if path.is_file()]
    return {str(p.relative_to(folder)): pq.ParquetFile(p).read().replace_schema_metadata(None) for p in sorted(files)}


def by_id(rows: pa.Table) -> pa.Table:
    """Return rows in the order of their ids."""
    return rows.take(pc.sort_indices(rows["object_id"]))


def same(left: dict[str, pa.Table], right: dict[str, pa.Table]) -> bool:
    """Return whether two exports have equal tables; NaN equals NaN."""
    return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)


def _same(left: pa.Table, right: pa.Table) -> bool:
    if left.schema != right.schema or len(left) != len(right):
        return False
    for name in left.column_names:
        one, two = left[name].combine_chunks(), right[name].combine_chunks()
        if not one.equals(two):
            values = [np.asarray(column.to_numpy(zero_copy_only=False)) for column in (one, two)]
            if not all(
                np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in zip(*values, strict=True)
            ):
                return False
    return True
