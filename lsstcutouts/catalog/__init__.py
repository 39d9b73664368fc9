"""Targets: where on the sky to cut, and what travels along.

`Catalog` is a struct of arrays, made from files (Parquet, CSV, ECSV, FITS, VOTable), a table (astropy, pandas,
pyarrow or anything that speaks the Arrow C stream protocol), the result of a query, coordinates or plain arrays. Everything that can be wrong with a
table is found here, once, before any image is looked for.
"""

from .checks import RESERVED_NAMES, PositionColumnWarning, PositionUnitWarning
from .files import files_of, is_skycoord
from .ids import read_ids
from .select import expression_columns, matching
from .targets import Catalog

__all__ = [
    "RESERVED_NAMES",
    "Catalog",
    "PositionColumnWarning",
    "PositionUnitWarning",
    "expression_columns",
    "files_of",
    "is_skycoord",
    "matching",
    "read_ids",
]
