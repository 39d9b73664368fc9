"""Converts the columns of a table: values, missing rows and the unit."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CatalogError
from .subset import Subset

__all__ = [
    "Column",
    "OpenTable",
    "concatenate_tables",
    "format_rows",
    "joined_column",
    "table_from_mapping",
    "to_column",
]


@dataclass(frozen=True)
class Column:
    """Values of one column, before they are checked.

    Attributes
    ----------
    values
        ``(N, ...)`` bool, integer or float array in native byte order, or a list of N strings.
    null
        ``(N,)`` bool, True for rows without a value; None if every row has one.
    unit
        Unit in the table; None if it has none.
    """

    values: NDArray[Any] | list[str]
    null: NDArray[np.bool_] | None = None
    unit: str | None = None


@dataclass(frozen=True)
class OpenTable:
    """A table that is open: its column names are known, its columns are read on request.

    Attributes
    ----------
    label
        Name of the table in messages.
    names
        Names of its columns.
    read
        Function that returns the named columns.
    parts
        Function that returns the parts of a large table which can hold rows of a subset, one after the other; it is given
        the columns that will be read of them. None if the table has one part.
    rows
        Number of rows; None if it is not known yet.
    position
        Names of the columns with the position in degrees, if the table says which they are.
    """

    label: str
    names: tuple[str, ...]
    read: Callable[[Sequence[str]], dict[str, Column]]
    parts: "Callable[[Sequence[str], Subset], Iterable[OpenTable]] | None" = None
    rows: int | None = None
    position: tuple[str, str] | None = None

    def divided(self, names: Sequence[str], subset: Subset) -> "Iterable[OpenTable]":
        """Return the parts that can hold rows of a subset, of which the named columns will be read."""
        return [self] if self.parts is None else self.parts(names, subset)


def format_rows(rows: Iterable[int], most: int = 5) -> str:
    """Return row numbers for messages, such as "rows 3, 7 and 12 more (counting from 0)"."""
    found = [int(row) for row in rows]
    shown = ", ".join(str(row) for row in found[:most])
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"{'row' if len(found) == 1 else 'rows'} {shown}{more} (counting from 0)"


def table_from_mapping(table: Mapping[str, Any], label: str) -> OpenTable:
    """Open a mapping of names to arrays, Quantities, masked arrays or lists."""
    return OpenTable(
        label,
        tuple(name for name in table if isinstance(name, str)),
        lambda names: {name: to_column(table[name], label, name) for name in names},
    )


def concatenate_tables(parts: Sequence[OpenTable], label: str) -> OpenTable:
    """Return the rows of several tables as one table with the columns of the first."""

    def checked(part: OpenTable, names: Sequence[str]) -> OpenTable:
        for name in names:
            if name not in part.names:
                raise CatalogError(
                    f"{part.label}: no column {name!r}, which {parts[0].label} has; give files with the same columns."
                )
        return part

    def read(names: Sequence[str]) -> dict[str, Column]:
        tables = [(part.label, checked(part, names).read(names)) for part in parts]
        return {name: joined_column(name, [(label, table[name]) for label, table in tables]) for name in names}

    def divided(names: Sequence[str], subset: Subset) -> Iterator[OpenTable]:
        return chain.from_iterable(checked(part, names).divided(names, subset) for part in parts)

    return OpenTable(label, parts[0].names, read, divided, position=parts[0].position)


def joined_column(name: str, parts: Sequence[tuple[str, Column]]) -> Column:
    """Return a column of several tables as one; numbers get the smallest type that holds all of them exactly."""
    parts = [part for part in parts if len(part[1].values)] or parts[:1]
    filled = [part for part in parts if part[1].null is None or not part[1].null.all()] or parts
    first_label, first = filled[0]
    for label, column in filled[1:]:
        if column.unit != first.unit:
            raise CatalogError(
                f"{label}: column {name!r} has unit {column.unit}, but {first.unit} in {first_label}; convert both to one"
                " unit."
            )
        if _kind(column) != _kind(first):
            raise CatalogError(
                f"{label}: column {name!r} holds {_kind(column)}, but {_kind(first)} in {first_label}; convert both to one"
                " type."
            )
    nulls = [np.zeros(len(c.values), np.bool_) if c.null is None else c.null for _, c in parts]
    null = _if_any(np.concatenate(nulls))
    if isinstance(first.values, list):
        texts = [c.values if isinstance(c.values, list) else [""] * len(c.values) for _, c in parts]
        return Column([text for part in texts for text in part], null, first.unit)
    dtype = _common_type(name, [(label, np.asarray(column.values)) for label, column in filled])
    arrays = []
    for (_, column), missing in zip(parts, nulls, strict=True):
        if missing.all():  # its type can be wrong, since no value determined it
            arrays.append(np.zeros((len(missing), *first.values.shape[1:]), dtype))
        else:
            arrays.append(np.asarray(column.values).astype(dtype))
        if dtype.kind == "f":
            arrays[-1][missing] = np.nan
    return Column(np.concatenate(arrays), null, first.unit)


def _kind(column: Column) -> str:
    """Return the kind of a column's values for messages; only values of one kind can be joined."""
    if isinstance(column.values, list):
        return "strings"
    each = "booleans" if column.values.dtype.kind == "b" else "numbers"
    return each if column.values.ndim == 1 else f"arrays {column.values.shape[1:]} of {each}"


def _common_type(name: str, parts: Sequence[tuple[str, NDArray[Any]]]) -> np.dtype[Any]:
    dtype = np.result_type(*(values.dtype for _, values in parts))
    whole = [(label, values) for label, values in parts if values.dtype.kind in "iu"]
    if dtype.kind != "f" or not whole:
        return dtype
    low, high = min(int(v.min(initial=0)) for _, v in whole), max(int(v.max(initial=0)) for _, v in whole)
    if len(whole) == len(parts):  # int64 and uint64: numpy would convert them to floats
        if high <= np.iinfo(np.int64).max:
            return np.dtype(np.int64)
        if low >= 0:
            return np.dtype(np.uint64)
    elif max(-low, high) <= 2**53:
        return np.dtype(np.float64)
    label = next(label for label, values in whole if {int(values.max()), int(values.min())} & {low, high})
    raise CatalogError(
        f"{label}: column {name!r} has integers from {low} to {high}; no type can represent these and the values of the"
        " other files exactly. Write all files with one type."
    )


def to_column(values: Any, label: str, name: str) -> Column:
    """Convert an array or sequence to a column.

    Parameters
    ----------
    values
        numpy array ``(N, ...)``, masked array, astropy column or Quantity, or a sequence.
    label, name
        Names of the table and the column, for messages.

    Raises
    ------
    CatalogError
        If a batch cannot hold values of this type.
    """
    unit = getattr(values, "unit", None)
    try:
        # This drops the unit of an astropy Quantity and the mask of a masked array; both are read separately.
        array = np.array(getattr(values, "unmasked", values))
        if array.dtype.kind == "f" and isinstance(values, list | tuple):
            array = _exact_integers(values, array)
    except ValueError as error:
        raise CatalogError(
            f"{label}: column {name!r} has rows of different shapes: {error}; give rows of one shape."
        ) from error
    if array.ndim == 0:
        raise CatalogError(f"{label}: column {name!r} is a single value; give one value per row.")
    mask: Any = getattr(values, "mask", None)
    has_mask = isinstance(mask, np.ndarray | np.bool_)
    null = _if_any(np.broadcast_to(mask, array.shape).any(axis=tuple(range(1, array.ndim)))) if has_mask else None
    return _plain_column(array, null, str(unit) if unit is not None and str(unit) else None, label, name)


def _exact_integers(items: Sequence[Any], array: NDArray[Any]) -> NDArray[Any]:
    """Return integers as uint64 if numpy converted them to floats because one exceeds int64."""
    if array.dtype.kind == "f" and all(isinstance(item, int | np.integer) for item in items):
        if min(items) < 0:
            return np.array(items, object)
        return np.array(items, np.uint64) if max(items) < 2**64 else np.array(items, object)
    return array


def _plain_column(
    array: NDArray[Any], null: NDArray[np.bool_] | None, unit: str | None, label: str, name: str
) -> Column:
    if array.dtype.kind == "O":
        return _object_column(array, null, unit, label, name)
    if array.dtype.kind in "SU" and array.ndim == 1:
        return Column(_decode(array, label, name), null, unit)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise CatalogError(
            f"{label}: column {name!r} has type {array.dtype}, which is not supported; convert it to numbers, booleans or"
            " one string per row."
        )
    # FITS is big-endian, and torch accepts only arrays in native byte order.
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if null is not None and native.dtype.kind == "f":
        native = np.where(null.reshape(-1, *(1,) * (native.ndim - 1)), native.dtype.type(np.nan), native)
    return Column(np.ascontiguousarray(native), null, unit)


def _decode(array: NDArray[Any], label: str, name: str) -> list[str]:
    if array.dtype.kind == "U":
        return [str(text) for text in array.tolist()]
    try:
        return [text.decode("utf-8") for text in array.tolist()]
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"{label}: column {name!r} has bytes that are not UTF-8 text: {error}; encode the texts as UTF-8."
        ) from error


def _object_column(
    array: NDArray[Any], null: NDArray[np.bool_] | None, unit: str | None, label: str, name: str
) -> Column:
    """Convert an object array of Python strings or numbers, in which None marks a missing value."""
    items = array.tolist()
    empty = np.array([item is None or item is np.ma.masked for item in items], np.bool_)
    null = empty if null is None else null | empty
    present = [item for item, missing in zip(items, null, strict=True) if not missing]
    if not present or array.ndim != 1:
        raise CatalogError(f"{label}: column {name!r} has unsupported values; give numbers, booleans or strings.")
    if all(isinstance(item, str | bytes) for item in present):
        texts = ["" if missing else item for item, missing in zip(items, null, strict=True)]
        return Column([t.decode("utf-8") if isinstance(t, bytes) else t for t in texts], _if_any(null), unit)
    filled = [present[0] if missing else item for item, missing in zip(items, null, strict=True)]
    typed = _exact_integers(filled, np.array(filled))
    if typed.dtype.kind not in "biuf":
        raise CatalogError(f"{label}: column {name!r} has mixed types or objects; give numbers, booleans or strings.")
    return _plain_column(typed, _if_any(null), unit, label, name)


def _if_any(null: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return null if null.any() else None
