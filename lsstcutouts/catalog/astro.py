"""Reads tables with astropy: FITS, VOTable and ECSV files, query results, astropy tables and coordinates.

``astropy.table`` takes about a second to import, so it is imported only when such a table is opened.
"""

import gzip
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CatalogError, CoordinateError
from .columns import Column, OpenTable, to_column

__all__ = [
    "degrees_icrs",
    "table_from_astropy",
    "table_from_ecsv",
    "table_from_fits",
    "table_from_query",
    "table_from_votable",
]


def table_from_fits(path: Path) -> OpenTable:
    """Read the first table of a FITS file, which may be gzipped."""
    from astropy.io import fits
    from astropy.table import Table

    try:
        # gzip.decompress checks the checksum first: astropy can loop forever over a damaged gzip file.
        whole = BytesIO(gzip.decompress(path.read_bytes())) if path.suffix.lower() == ".gz" else path
        with fits.open(whole) as hdus:
            tables = [i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
            if not tables:
                raise CatalogError(f"{path}: the file contains only images, no table; give the file with the catalog.")
            # No warnings about invalid units of columns that are not used. Only TNULL marks a value as missing: an
            # empty string is a valid string, and NaN a valid float.
            table = Table.read(hdus, format="fits", hdu=tables[0], unit_parse_strict="silent", mask_invalid=False)
    except (fits.VerifyError, AttributeError, NameError) as error:
        # astropy raises AttributeError and NameError for some damaged headers.
        raise CatalogError(
            f"{path}: this is not a valid FITS file: {error}; check that the file is complete."
        ) from error
    return table_from_astropy(table, str(path))


def table_from_votable(path: Path, *, allow_overflow: bool = False) -> OpenTable:
    """Read the first table of a VOTable file."""
    from astropy.io.votable import parse

    return table_from_query(parse(path, verify="ignore"), str(path), allow_overflow=allow_overflow)


def table_from_query(votable: Any, label: str, *, allow_overflow: bool) -> OpenTable:
    """Open the first table of an astropy ``VOTableFile``, such as the result of a TAP query.

    ``QUERY_STATUS``, before or after the table, says whether the query succeeded and whether the result is complete
    (DALI 1.1, section 4.4).
    """
    status = {
        str(info.value).strip().upper(): str(info.content or "").strip()
        for info in votable.iter_info()
        if str(info.name).upper() == "QUERY_STATUS"
    }
    if "ERROR" in status:
        raise CatalogError(
            f"{label}: the query failed: {status['ERROR'] or 'the service gave no reason'}; correct the query and run it"
            " again."
        )
    tables = list(votable.iter_tables())
    if not tables:
        raise CatalogError(f"{label}: the file contains no table; give the file with the query result.")
    table = next((one for one in tables if not one.is_empty()), tables[0])
    if "OVERFLOW" in status and not allow_overflow:
        reason = f" ({status['OVERFLOW']})" if status["OVERFLOW"] else ""
        raise CatalogError(
            f"{label}: the query result is truncated after {len(table.array)} rows (QUERY_STATUS=OVERFLOW{reason}), so the"
            " catalog is incomplete. Increase the row limit of the query (MAXREC, pyvo's maxrec=) or split the query; if"
            " you want only these rows, use SELECT TOP in the query or Catalog.from_any(..., allow_overflow=True)."
        )
    return table_from_astropy(table.to_table(use_names_over_ids=True), label)


def table_from_ecsv(path: Path) -> OpenTable:
    """Read an ECSV file."""
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv")
    for column in table.columns.values():
        if getattr(column, "mask", None) is not None and column.dtype.kind == "U":
            # ECSV writes empty and missing strings in the same way, and astropy reads both as missing.
            table[column.name] = column.filled("")
    return table_from_astropy(table, str(path))


def table_from_astropy(table: Any, label: str = "astropy Table") -> OpenTable:
    """Open an astropy ``Table`` or ``QTable``; a single `SkyCoord` column provides the columns ``ra`` and ``dec``."""
    coordinates = [name for name in table.colnames if hasattr(table[name], "transform_to")]
    if len(coordinates) == 1 and not {"ra", "dec"} & {name.lower() for name in table.colnames}:
        ra, dec = degrees_icrs(table[coordinates[0]], f"{label}: column {coordinates[0]!r}")
        table = table.copy(copy_data=False)
        table["ra"], table["dec"] = ra, dec
        table["ra"].unit = table["dec"].unit = "deg"

    def read(names: Sequence[str]) -> dict[str, Column]:
        return {name: to_column(table[name], label, name) for name in names}

    return OpenTable(label, tuple(table.colnames), read)


def degrees_icrs(coordinates: Any, label: str = "SkyCoord") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return RA and Dec, ``(N,)`` each, degrees ICRS, of an astropy ``SkyCoord`` in any frame, array or scalar.

    Raises
    ------
    CoordinateError
        If the coordinates have more than one dimension, or astropy cannot transform them to ICRS.
    """
    from astropy.coordinates import ConvertError
    from astropy.units import UnitsError

    try:
        icrs = coordinates.icrs
    except (ConvertError, UnitsError, ValueError, TypeError, AttributeError) as error:
        raise CoordinateError(
            f"{label}: the positions cannot be transformed to ICRS: {error}; give RA and Dec in degrees ICRS."
        ) from error
    if icrs.ndim > 1:
        raise CoordinateError(
            f"{label}: the positions have the shape {icrs.shape}; give one position per row, shape (N,)."
        )
    return np.atleast_1d(icrs.ra.deg).astype(np.float64), np.atleast_1d(icrs.dec.deg).astype(np.float64)
