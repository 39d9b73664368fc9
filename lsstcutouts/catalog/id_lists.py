"""Reads object ids from a table that needs no positions."""

from typing import Any

from ..errors import CatalogError
from .checks import ID_NAMES, check_ids, find_id_column
from .files import open_table
from .ids import Ids

__all__ = ["read_ids"]


def read_ids(source: Any) -> Ids:
    """Return the object ids ``(N,)`` of a file or table.

    Raises
    ------
    CatalogError
        If it cannot be read or has no id column.
    """
    table = open_table(source)
    name = find_id_column(table)
    if name is None:
        raise CatalogError(f"{table.label}: no id column found; name it, for example, {', '.join(ID_NAMES[:3])}.")
    return check_ids(table.read([name])[name], name, table.label)
