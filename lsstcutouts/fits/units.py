"""Conversion of the unit of a coadd to nJy."""

import warnings
from functools import lru_cache

import numpy as np

from ..errors import FluxUnitError
from .headers import BadStructureError, Cards, Hdu, table_column
from .structure import FileStructure, table_rows

__all__ = ["nanojansky_per_unit"]

_ZERO_MAGNITUDE = 10.0**12.56
"""nJy of a source of AB magnitude 0: 10^(-48.6/2.5) erg/s/cm2/Hz (Oke & Gunn 1983), as afw's ``referenceFlux``."""

_COUNTS = {"", "adu", "dn", "count", "counts", "ct", "electron", "electrons", "e", "e-"}
_SPELLINGS = {"nanomaggies": "nmgy", "maggies": "mgy"}

_MOST_ARCHIVE_ROWS = 1_000_000
"""A coadd of thousands of input images has tens of thousands of rows in its archive's index."""


def nanojansky_per_unit(structure: FileStructure, image: Hdu) -> float:
    """Return the factor that converts the image plane of a file to nJy.

    Flux densities are converted by astropy. Counts are by the zero point: ``FLUXMAG0`` in the header (afw before 2019),
    or the ``PhotoCalib`` among the file's archive tables (afw since). ``MAGZERO`` is not used: LSST and HSC write it
    for counts *a second*.

    Raises
    ------
    FluxUnitError
        If the unit is not a flux density, or counts have no zero point.
    BadStructureError
        If the zero point is not a number.
    """
    unit = image.cards.string("BUNIT").strip()
    scale = _calibration(structure, image) if unit.lower() in _COUNTS else _by_astropy(unit)
    if scale is None:
        why = (
            "no zero point (FLUXMAG0, PhotoCalib) is in its headers"
            if unit.lower() in _COUNTS
            else "it is not a flux density"
        )
        raise FluxUnitError(
            f'{structure.source.uri}: BUNIT {unit!r} cannot be converted to nJy: {why}; use flux_unit="native" for '
            "the values of the file"
        )
    return scale


@lru_cache(maxsize=64)
def _by_astropy(unit: str) -> float | None:
    """Return nJy for a unit; None where it is no flux density."""
    if unit == "nJy":
        return 1.0  # as Rubin writes it: no reason to import astropy's units, which takes a third of a second
    import astropy.units as u

    with warnings.catch_warnings():
        # Units such as erg/s/cm2/Hz: read as meant, with a warning about style.
        warnings.simplefilter("ignore", u.UnitsWarning)
        try:
            flux = u.Unit(_SPELLINGS.get(unit.lower(), unit))
            scale = float(flux.to(u.nJy, equivalencies=u.zero_point_flux(u.ABflux)))
        except (ValueError, TypeError, ArithmeticError, u.UnitConversionError):
            return None
    return scale if 0.0 < scale < np.inf else None


def _calibration(structure: FileStructure, image: Hdu) -> float | None:
    """Return nJy for a count, None where the file does not say."""
    for cards in (image.cards, structure.primary.cards):
        # 0 is what afw writes for an image that is not calibrated.
        counts = cards.number("FLUXMAG0", 0.0)
        if counts < 0:
            raise BadStructureError(f"header keyword FLUXMAG0 is {counts}")
        if counts > 0:
            return _ZERO_MAGNITUDE / counts
    return _photo_calib(structure, structure.primary.cards)


def _photo_calib(structure: FileStructure, cards: Cards) -> float | None:
    """Return the mean calibration of the archive's ``PhotoCalib``, None without one, or with one that varies.

    That of a coadd is constant: its inputs are scaled to one zero point. Source: afw, ``PhotoCalib.cc`` (version 1 of
    its tables is in nJy a count) and ``ArchiveIndexSchema.cc``.
    """
    first, wanted = cards.integer("AR_HDU", 0), cards.integer("PHOTOCALIB_ID", 0)
    index = structure.at(first - 1) if first and wanted else None
    if index is None:
        return None
    rows = table_rows(structure.source, index, _MOST_ARCHIVE_ROWS)
    names = {name.replace(".", "").replace("_", ""): name for name in rows.dtype.names or ()}
    if not {"ID", "CATARCHIVE", "ROW0"} <= names.keys():
        raise BadStructureError("the index of the archive lacks columns")
    ids, catalogs, starts = (table_column(rows, names[name], "i") for name in ("ID", "CATARCHIVE", "ROW0"))
    mine = np.flatnonzero(ids == wanted)
    if not len(mine) or catalogs[mine[0]] < 0:
        return None
    table = structure.at(first - 1 + int(catalogs[mine[0]]))
    return None if table is None else _mean_calibration(structure, table, int(starts[mine[0]]))


def _mean_calibration(structure: FileStructure, table: Hdu, row: int) -> float | None:
    rows = table_rows(structure.source, table, _MOST_ARCHIVE_ROWS)
    names = {name.lower(): name for name in rows.dtype.names or ()}
    if not {"flags", "calibrationmean", "version"} <= names.keys() or not 0 <= row < len(rows):
        return None
    is_constant = any(bytes(table_column(rows, names["flags"], "V")[row]))  # the table's only flag
    mean = float(table_column(rows, names["calibrationmean"], "f")[row])
    version = int(table_column(rows, names["version"], "i")[row])
    return mean if is_constant and version >= 1 and 0 < mean < float("inf") else None
