"""Reads tables with pyarrow: Parquet and CSV files, pandas and Arrow tables.

Only the requested columns are read or converted. Integers are never converted to floats, so 64-bit ids stay exact.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..errors import CatalogError
from .columns import Column, OpenTable, format_rows

__all__ = ["table_from_arrow", "table_from_csv", "table_from_pandas", "table_from_parquet"]


def table_from_parquet(path: Path) -> OpenTable:
    """Open a Parquet file; only its schema is read."""
    schema = pq.read_schema(path)
    units = _units(schema)

    def read(names: Sequence[str]) -> dict[str, Column]:
        try:
            with pq.ParquetFile(path) as file:
                table = file.read(columns=list(names))
            return {name: _column(table.column(name), units.get(name), str(path), name) for name in names}
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            raise CatalogError(
                f"{path}: cannot read columns {list(names)} as Parquet: {error}; check that the file is complete."
            ) from error

    return OpenTable(str(path), _unique_names(schema.names, str(path)), read)


def table_from_csv(path: Path) -> OpenTable:
    """Read a comma-separated file with a header line; lines before it that start with # are skipped.

    Spaces around the names in the header are removed; if there are any, spaces around texts are removed too.
    """
    with path.open("rb") as file:
        comments = 0
        while file.readline().startswith(b"#"):
            comments += 1
    read = pa_csv.ReadOptions(skip_rows=comments)
    try:
        table = pa_csv.read_csv(path, read)
    except pa.ArrowInvalid:
        # Types come from the first block. If a later line holds the first float or text, read the file as one block.
        read.block_size = min(path.stat().st_size + 1, 2**31 - 1)
        table = pa_csv.read_csv(path, read)
    # Integers above the int64 range are read as floats, which lose digits.
    large = [n for n, column in zip(table.column_names, table.columns, strict=True) if _beyond_int64(column)]
    if large:
        types = pa_csv.ConvertOptions(column_types=dict.fromkeys(large, pa.uint64()))
        with suppress(pa.ArrowInvalid):  # the column holds floats, such as 1e300
            table = pa_csv.read_csv(path, read, convert_options=types)
    names = [name.strip().strip('"').strip() for name in table.column_names]
    if names != table.column_names:
        table = pa.table(
            [pc.utf8_trim_whitespace(c) if pa.types.is_string(c.type) else c for c in table.columns], names=names
        )
    return table_from_arrow(table, str(path))


def _beyond_int64(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_floating(column.type):
        return False
    values = column.drop_null().to_numpy()
    if not len(values) or not 2.0**63 <= values.max() <= 2.0**64 or values.min() < 0:
        return False
    return bool((values == np.trunc(values)).all())


def table_from_pandas(frame: Any, label: str = "pandas DataFrame") -> OpenTable:
    """Open a pandas DataFrame; named levels of its index count as columns."""
    levels = [name for name in frame.index.names if name is not None and name not in frame.columns]
    whole = frame.reset_index(level=levels) if levels else frame
    texts = _unique_names([name for name in whole.columns if isinstance(name, str)], label)

    def read(names: Sequence[str]) -> dict[str, Column]:
        try:
            table = pa.Table.from_pandas(whole[list(names)], preserve_index=False)
        except (pa.ArrowException, TypeError) as error:
            raise CatalogError(
                f"{label}: one of the columns {list(names)} has mixed types: {error}; convert it to one type."
            ) from error
        return {name: _column(table.column(name), None, label, name) for name in names}

    return OpenTable(label, texts, read)


def table_from_arrow(table: pa.Table, label: str) -> OpenTable:
    """Open an Arrow table; ``label`` names it in messages."""
    units = _units(table.schema)
    return OpenTable(
        label,
        _unique_names(table.schema.names, label),
        lambda names: {name: _column(table.column(name), units.get(name), label, name) for name in names},
    )


def _unique_names(names: Sequence[str], label: str) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise CatalogError(f"{label}: column names {twice} occur more than once; rename or drop the duplicates.")
    return tuple(names)


def _units(schema: pa.Schema) -> dict[str, str]:
    """Return units by column: field metadata ``unit`` (Rubin's tools), otherwise astropy's header in the schema."""
    found = _astropy_units(schema.metadata or {})
    for field in schema:
        unit = (field.metadata or {}).get(b"unit", b"").decode("utf-8", "replace")
        if unit:
            found[field.name] = unit
    return found


def _astropy_units(metadata: dict[bytes, bytes]) -> dict[str, str]:
    header = metadata.get(b"table_meta_yaml")
    if header is None:
        return {}
    from astropy.table.meta import get_header_from_yaml

    columns = get_header_from_yaml(header.decode("utf-8").split("\n")).get("datatype", [])
    return {column["name"]: str(column["unit"]) for column in columns if column.get("unit")}


def _column(column: pa.ChunkedArray, unit: str | None, label: str, name: str) -> Column:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    null = np.asarray(column.is_null().to_numpy(), np.bool_) if column.null_count else None
    if pa.types.is_null(kind):
        return Column(np.zeros(len(column), np.int8), np.ones(len(column), np.bool_), unit)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return Column(column.fill_null("").to_pylist(), null, unit)
    if pa.types.is_floating(kind):
        return Column(column.to_numpy(), null, unit)
    if pa.types.is_integer(kind):
        return Column(column.fill_null(0).to_numpy(), null, unit)
    if pa.types.is_boolean(kind):
        return Column(column.cast(pa.uint8()).fill_null(0).to_numpy().astype(np.bool_), null, unit)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return Column(_vectors(column, label, name), None, unit)
    raise CatalogError(
        f"{label}: column {name!r} has type {kind}, which is not supported; convert it to numbers, booleans, strings or"
        " lists of numbers."
    )


def _vectors(column: pa.ChunkedArray, label: str, name: str) -> NDArray[Any]:
    """Return a column of N lists of K numbers as one array ``(N, K)``."""
    if column.null_count:
        empty = np.flatnonzero(column.is_null().to_numpy())
        raise CatalogError(
            f"{label}: column {name!r} has no value in {format_rows(empty)}; fill these rows or leave the column out."
        )
    lists = column.combine_chunks()
    flat = _column(pa.chunked_array([lists.flatten()]), None, label, name)
    lengths = np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False))
    odd = np.flatnonzero(lengths != lengths[0]) if len(lengths) else lengths
    if len(odd) or isinstance(flat.values, list) or (flat.null is not None and flat.values.dtype.kind != "f"):
        raise CatalogError(
            f"{label}: column {name!r} cannot be converted to one array; every list must hold numbers and have the length"
            f" of the first" + (f", unlike {format_rows(odd)}." if len(odd) else ".")
        )
    return flat.values.reshape(len(lists), -1)
