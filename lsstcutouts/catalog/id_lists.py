"""Object ids alone, from a file without positions."""

from typing import Any

from ..errors import CatalogError
from .checks import ID_NAMES, checked_ids, id_name
from .files import open_source
from .ids import Ids

__all__ = ["read_ids"]


def read_ids(source: Any) -> Ids:
    """Return the object ids of a file or table.

    Raises
    ------
    CatalogError
        If it cannot be read, or no column is one of ids.
    """
    table = open_source(source)
    name = id_name(table)
    if name is None:
        raise CatalogError(f"{table.label} has no column of object ids, such as {', '.join(ID_NAMES[:3])}")
    return checked_ids(table.read([name])[name], name, table.label)
