"""Reads the rows of a table that a subset keeps, part by part, so that a large table is never held whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EmptyCatalogError, MemoryBudgetError
from ..source.amounts import shown_bytes
from ..source.limits import available_memory
from .checks import Unit, degrees_of
from .columns import Column, OpenTable, joined_column
from .ids import take_rows
from .select import check_columns
from .subset import OWN_NAMES, Subset

__all__ = ["read_rows"]

_PLANNED = 110
"""Bytes that planning takes for each row at the most, besides the columns."""

_TEXT = 60
"""Bytes of a Python string with its place in a list, about."""


def read_rows(
    table: OpenTable,
    names: Sequence[str],
    subset: Subset,
    position: tuple[str, str],
    id_column: str | None,
    unit: Unit = None,
) -> dict[str, Column]:
    """Return the named columns of the rows that a subset keeps.

    Parameters
    ----------
    table
        Its parts are read one after the other: first what the test needs, then the other columns if a row is kept.
    names
        Columns to return.
    subset
        Which rows are kept.
    position, id_column
        Columns of the table that ``ra``, ``dec`` and ``object_id`` mean in the subset.
    unit
        As in `positions_in_degrees`.

    Raises
    ------
    EmptyCatalogError
        If no row is kept.
    CatalogError
        If the table cannot be read.
    ConfigurationError
        If the expression does not fit the table.
    MemoryBudgetError
        If the rows need more memory than is free.
    """
    if not subset and table.parts is None:
        return table.read(names)
    own = {**dict(zip(("ra", "dec"), position, strict=True)), "object_id": id_column}
    known = [*(name for name in OWN_NAMES if own[name] is not None), *table.names]
    if subset.select is not None:
        check_columns(subset.select, known)
    used = list(dict.fromkeys(column for name in subset.columns if (column := own.get(name, name)) is not None))
    if not subset and table.rows is not None:
        _check_memory(table, table.rows, table.rows * 8 * len(names))
    held: list[tuple[str, dict[str, Column]]] = []
    count = size = seen = 0
    for part in table.divided([*used, *names], subset):
        tested = part.read(used or list(names)) if subset else {}
        kept = _kept(subset, tested, own, position, unit, part.label) if subset else None
        if kept is not None:
            seen += len(kept)
            if not kept.any():
                continue
        found = {**tested, **part.read([name for name in names if name not in tested])}
        found = {name: found[name] if kept is None else _taken(found[name], kept) for name in names}
        held.append((part.label, found))
        count += len(next(iter(found.values())).values)
        size += sum(_bytes(column) for column in found.values())
        _check_memory(table, count, size)
    if not held:
        raise EmptyCatalogError(_nothing_kept(table, subset, seen))
    return {name: joined_column(name, [(label, found.pop(name)) for label, found in held]) for name in names}


def _kept(
    subset: Subset,
    tested: Mapping[str, Column],
    own: Mapping[str, str | None],
    position: tuple[str, str],
    unit: Unit,
    label: str,
) -> NDArray[np.bool_]:
    count = len(next(iter(tested.values())).values) if tested else 0
    values: dict[str, Any] = {name: _with_nulls(column) for name, column in tested.items()}
    if own["object_id"] in tested:
        values["object_id"] = values[str(own["object_id"])]
    if {"ra", "dec"} & set(subset.columns):
        both = {name: tested[name] for name in position if name in tested}
        values |= degrees_of(both, position, unit, label)
    return subset.mask(values, count)


def _with_nulls(column: Column) -> Any:
    if column.null is None:
        return column.values
    if isinstance(column.values, list):
        return [None if null else text for text, null in zip(column.values, column.null.tolist(), strict=True)]
    return np.ma.array(column.values, mask=column.null)


def _taken(column: Column, kept: NDArray[np.bool_]) -> Column:
    null = None if column.null is None else column.null[kept]
    return Column(take_rows(column.values, kept), null, column.unit)


def _bytes(column: Column) -> int:
    return len(column.values) * _TEXT if isinstance(column.values, list) else column.values.nbytes


def _check_memory(table: OpenTable, rows: int, size: int) -> None:
    needed = 2 * size + rows * _PLANNED  # joining the parts of a large column holds it twice
    if needed > (free := available_memory()):
        raise MemoryBudgetError(
            f"{table.label}: {rows:,} rows and their plan need {shown_bytes(needed)}, but only {shown_bytes(free)} of memory are"
            " free; take a part of the catalog with select= and cone=, or fewer columns."
        )


def _nothing_kept(table: OpenTable, subset: Subset, seen: int) -> str:
    if not subset:
        return f"{table.label}: the catalog is empty; give at least one target."
    total = "" if table.rows is None else f" of {table.rows:,}"
    return (
        f"{table.label}: no row meets {subset} ({seen:,} rows{total} were tested, the others lie in parts that cannot meet"
        " it); check names, units and area."
    )
