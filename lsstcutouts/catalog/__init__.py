"""Targets: where on the sky to cut, and what travels along.

`Catalog` is a struct of arrays, made from a file (Parquet, CSV, ECSV, FITS, VOTable), a table (astropy, pandas,
pyarrow or anything that speaks the Arrow C stream protocol) or plain arrays. Everything that can be wrong with a
table is found here, once, before any image is looked for.
"""

from .checks import RESERVED_NAMES, PositionUnitWarning
from .ids import read_ids
from .select import expression_columns, matching
from .targets import Catalog

__all__ = ["RESERVED_NAMES", "Catalog", "PositionUnitWarning", "expression_columns", "matching", "read_ids"]
