"""Object ids alone, from a file without positions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CatalogError
from .checks import ID_NAMES, first_name, whole_ids
from .files import open_source

__all__ = ["read_ids"]


def read_ids(source: Any) -> NDArray[np.int64]:
    """Return the object ids of a file or table.

    Raises
    ------
    CatalogError
        If it cannot be read, or no column is one of ids.
    """
    table = open_source(source)
    name = first_name(table, ID_NAMES)
    if name is None:
        raise CatalogError(f"{table.label} has no column of object ids, such as {', '.join(ID_NAMES[:3])}")
    return whole_ids(table.read([name])[name], name, table.label)
