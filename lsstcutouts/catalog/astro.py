"""Tables that astropy knows: FITS, VOTable and ECSV files, and its own tables.

``astropy.table`` takes about a second to import and is imported only when such a table is met.
"""

import gzip
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ..errors import CatalogError
from .columns import Column, Source, to_column

__all__ = ["source_from_astropy", "source_from_ecsv", "source_from_fits", "source_from_votable"]


def source_from_fits(path: Path) -> Source:
    """Return the first table of a FITS file, possibly gzipped, as a source."""
    from astropy.io import fits
    from astropy.table import Table

    try:
        # Reading a gzipped file whole checks its checksum first: astropy can loop for ever over a damaged one.
        whole = BytesIO(gzip.decompress(path.read_bytes())) if path.suffix.lower() == ".gz" else path
        with fits.open(whole) as hdus:
            tables = [i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
            if not tables:
                raise CatalogError(f"{path}: holds no table, only images; give the file that holds the catalog.")
            # Units of columns that nobody asks for are of no concern: no warning about their spelling. An empty text
            # is a text and NaN a float: only what TNULL says is missing is masked.
            table = Table.read(hdus, format="fits", hdu=tables[0], unit_parse_strict="silent", mask_invalid=False)
    except (fits.VerifyError, AttributeError, NameError) as error:
        # The last two are how astropy trips over some damaged headers.
        raise CatalogError(f"{path}: is no valid FITS file: {error}") from error
    return source_from_astropy(table, str(path))


def source_from_votable(path: Path) -> Source:
    """Return the first table of a VOTable file as a source."""
    from astropy.io.votable import parse_single_table

    return source_from_astropy(parse_single_table(path, verify="ignore").to_table(use_names_over_ids=True), str(path))


def source_from_ecsv(path: Path) -> Source:
    """Return an ECSV file as a source."""
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv")
    for column in table.columns.values():
        if getattr(column, "mask", None) is not None and column.dtype.kind == "U":
            # ECSV writes an empty text and a missing one alike; astropy reads both as missing.
            table[column.name] = column.filled("")
    return source_from_astropy(table, str(path))


def source_from_astropy(table: Any, label: str = "astropy Table") -> Source:
    """Return an astropy ``Table`` or ``QTable`` as a source."""

    def read(names: Sequence[str]) -> dict[str, Column]:
        return {name: to_column(table[name], label, name) for name in names}

    return Source(label, tuple(table.colnames), read)
