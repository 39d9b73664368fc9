"""Tables that pyarrow knows: Parquet and CSV files, pandas and Arrow tables.

Only the columns asked for are read or converted. Integers never pass through floats, so that 64-bit ids survive.
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
    """Return a Parquet file as a source; only its schema is read."""
    schema = pq.read_schema(path)
    units = _units(schema)

    def read(names: Sequence[str]) -> dict[str, Column]:
        try:
            with pq.ParquetFile(path) as file:
                table = file.read(columns=list(names))
            return {name: _column(table.column(name), units.get(name), str(path), name) for name in names}
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            raise CatalogError(f"{path}: cannot be read as Parquet: {error}") from error

    return OpenTable(str(path), _unique_names(schema.names, str(path)), read)


def table_from_csv(path: Path) -> OpenTable:
    """Return a comma-separated file with a header line as a source; lines before it that start with # are skipped.

    Blanks around the names of the header do not count, and neither do those around texts then.
    """
    with path.open("rb") as file:
        comments = 0
        while file.readline().startswith(b"#"):
            comments += 1
    read = pa_csv.ReadOptions(skip_rows=comments)
    try:
        table = pa_csv.read_csv(path, read)
    except pa.ArrowInvalid:
        # The types come from the first block, here of the whole file: perhaps a later line holds the first float or text.
        read.block_size = min(path.stat().st_size + 1, 2**31 - 1)
        table = pa_csv.read_csv(path, read)
    # Integers beyond int64 are taken for floats, which would lose digits.
    large = [n for n, column in zip(table.column_names, table.columns, strict=True) if _beyond_int64(column)]
    if large:
        types = pa_csv.ConvertOptions(column_types=dict.fromkeys(large, pa.uint64()))
        with suppress(pa.ArrowInvalid):  # of a column that holds floats, such as 1e300
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


def table_from_pandas(frame: Any) -> OpenTable:
    """Return a pandas DataFrame as a source; named levels of its index count as columns."""
    label = "pandas DataFrame"
    levels = [name for name in frame.index.names if name is not None and name not in frame.columns]
    whole = frame.reset_index(level=levels) if levels else frame
    texts = _unique_names([name for name in whole.columns if isinstance(name, str)], label)

    def read(names: Sequence[str]) -> dict[str, Column]:
        try:
            table = pa.Table.from_pandas(whole[list(names)], preserve_index=False)
        except (pa.ArrowException, TypeError) as error:
            raise CatalogError(f"{label}: a column among {list(names)} holds mixed types: {error}") from error
        return {name: _column(table.column(name), None, label, name) for name in names}

    return OpenTable(label, texts, read)


def table_from_arrow(table: pa.Table, label: str) -> OpenTable:
    """Return an Arrow table as a source."""
    units = _units(table.schema)
    return OpenTable(
        label,
        _unique_names(table.schema.names, label),
        lambda names: {name: _column(table.column(name), units.get(name), label, name) for name in names},
    )


def _unique_names(names: Sequence[str], label: str) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise CatalogError(f"{label}: column names {twice} occur more than once; rename or drop the others.")
    return tuple(names)


def _units(schema: pa.Schema) -> dict[str, str]:
    """Return units by column: field metadata ``unit`` (Rubin's tools), else astropy's header in the schema."""
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
        f"{label}: column {name!r} is of type {kind}; only numbers, booleans, texts and lists of numbers can be used."
    )


def _vectors(column: pa.ChunkedArray, label: str, name: str) -> NDArray[Any]:
    """Return a column of lists as one array ``(N, K)``."""
    if column.null_count:
        empty = np.flatnonzero(column.is_null().to_numpy())
        raise CatalogError(f"{label}: column {name!r} has no value in {format_rows(empty)}; fill it or leave it out.")
    lists = column.combine_chunks()
    flat = _column(pa.chunked_array([lists.flatten()]), None, label, name)
    lengths = np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False))
    odd = np.flatnonzero(lengths != lengths[0]) if len(lengths) else lengths
    if len(odd) or isinstance(flat.values, list) or (flat.null is not None and flat.values.dtype.kind != "f"):
        raise CatalogError(
            f"{label}: column {name!r} holds lists that do not make one array: lists of numbers, all as long as the"
            f" first, are needed" + (f"; others in {format_rows(odd)}." if len(odd) else ".")
        )
    return flat.values.reshape(len(lists), -1)
