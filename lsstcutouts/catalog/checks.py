"""Finds the columns that a catalog needs, and checks positions, ids and extra columns."""

import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CatalogError, CoordinateError, EmptyCatalogError
from .columns import Column, OpenTable, format_rows
from .ids import Ids, repeats_ids

__all__ = [
    "ID_NAMES",
    "RESERVED_NAMES",
    "PositionColumnWarning",
    "PositionUnitWarning",
    "RepeatedIdWarning",
    "Unit",
    "check_column_names",
    "check_extra_column",
    "check_ids",
    "degrees_of",
    "find_id_column",
    "find_position_columns",
    "missing_column_message",
    "positions_in_degrees",
    "require_column",
    "row_count",
    "warn_about_other_positions",
    "warn_about_repeated_ids",
]

RESERVED_NAMES = frozenset(
    [
        "image",
        "band_present",
        "valid",
        "variance",
        "mask",
        "psf",
        "object_id",
        "ra",
        "dec",
        "tract",
        "patch",
        "yx0",
        "offset",
        "is_padding",
        "quality",
        "repeat",
        "ivar",
        "psf_present",
        "wcs",
        "object_hash",
    ]
)
"""Keys of a batch, which no extra column may use as its name."""

_WHERE = "Catalog.from_any or `lsstcutouts plan` (training then reads its output= as data.plan=)"

_POSITION_NAMES = (
    ("ra", "dec"),
    ("coord_ra", "coord_dec"),
    ("raJ2000", "decJ2000"),
    ("RAJ2000", "DEJ2000"),
    ("ra_icrs", "dec_icrs"),
    ("RA_ICRS", "DE_ICRS"),
    ("ra_deg", "dec_deg"),
    ("right_ascension", "declination"),
    ("ALPHA_J2000", "DELTA_J2000"),
)
ID_NAMES = (
    "object_id",
    "objectId",
    "diaSourceId",  # before diaObjectId, which is not unique in a table of DiaSources
    "diaObjectId",
    "sourceId",  # in any capitalisation: SourceID
    "source_id",
    "source",
    "id",
    "name",
)
"""Names of id columns, in order of priority."""

_PERHAPS = ("source", "id", "name")
"""Often something else: an id column only if its values are ids and all differ."""

type Unit = str | Sequence[str] | None
"""Unit of both RA and Dec, or one unit each: ``"hourangle,deg"`` or ``("hourangle", "deg")``."""

_DEGREES = {"deg": 1.0, "degree": 1.0, "degrees": 1.0}
_RADIANS = dict.fromkeys(("rad", "radian", "radians"), 180.0 / np.pi)

_ROUNDING = 2e-5
"""Degrees by which a position may exceed its range: 2 pi in float32 is 360.00001 degrees."""


class PositionUnitWarning(UserWarning):
    """Positions without a unit could be radians; they are read as degrees."""


class PositionColumnWarning(UserWarning):
    """A table has several pairs of position columns with different values; the warning names the pair that is used."""


class RepeatedIdWarning(UserWarning):
    """Several rows of a catalog have one id."""


def check_column_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of extra columns without duplicates; `CatalogError` for a name in `RESERVED_NAMES`."""
    names = (columns,) if isinstance(columns, str) else tuple(dict.fromkeys(columns))
    reserved = [name for name in names if name in RESERVED_NAMES]
    if reserved:
        raise CatalogError(
            f"Columns {reserved} cannot be extra columns: a batch uses these names itself. Rename them in the catalog, or"
            " leave them out of columns= (a batch always contains object_id, ra and dec)."
        )
    return names


def require_column(table: OpenTable, name: str) -> str:
    """Return ``name`` if the table has this column; otherwise raise `CatalogError` with similar names."""
    if name not in table.names:
        raise CatalogError(missing_column_message(table.label, name, table.names))
    return name


def missing_column_message(label: str, name: str, names: tuple[str, ...]) -> str:
    """Return the error message for a column that a table does not have."""
    by_lower = {other.lower(): other for other in names}
    within = [
        lower
        for lower in by_lower
        if min(len(lower), len(name)) > 1 and (name.lower() in lower or lower in name.lower())
    ]
    similar = dict.fromkeys([*get_close_matches(name.lower(), by_lower, n=3), *within])
    close = [by_lower[match] for match in list(similar)[:3]]
    hint = f"did you mean {', '.join(map(repr, close))}? " if close else ""
    return f"{label}: no column {name!r}; {hint}{_column_list(names)}"


def _column_list(names: tuple[str, ...], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"the columns are: {', '.join(names[:most]) or 'none'}{more}."


def find_id_column(table: OpenTable) -> str | None:
    """Return the name of the table's first id column, the exact capitalisation first; None if there is none."""
    for candidate in ID_NAMES:
        alike = [name for name in table.names if name.lower() == candidate.lower()]
        if not alike:
            continue
        name = candidate if candidate in alike else alike[0]
        if candidate not in _PERHAPS:
            return name
        if table.position is not None:  # a HATS catalog, of which a whole column can be too much
            return None
        try:
            if not repeats_ids(check_ids(table.read([name])[name], name, table.label)):
                return name
        except CatalogError:
            continue
    return None


def find_position_columns(table: OpenTable, ra: str | None, dec: str | None) -> list[tuple[str, str]]:
    """Return the given names of the RA and Dec columns, or all pairs that the table has, in order of priority."""
    if ra is not None and dec is not None:
        return [(require_column(table, ra), require_column(table, dec))]
    if ra is None and dec is None and table.position is not None:
        return [table.position]
    if ra is not None or dec is not None:
        raise CatalogError(f"{table.label}: only one position column is named; give both ra= and dec=, or neither.")
    found: list[tuple[str, str]] = []
    for pair in _POSITION_NAMES:
        # The exact capitalisation first.
        alike = [
            sorted((n for n in table.names if n.lower() == name.lower()), key=lambda n: n != name) for name in pair
        ]
        found += [one for one in zip(*alike, strict=False) if one not in found]
    if found:
        return found
    known = ", ".join("/".join(pair) for pair in _POSITION_NAMES[:4])
    raise CatalogError(
        f"{table.label}: no position columns found ({known}...); name them with ra= and dec= of "
        f"{_WHERE}; {_column_list(table.names)}"
    )


def warn_about_other_positions(table: OpenTable, columns: dict[str, Column], pairs: Sequence[tuple[str, str]]) -> None:
    """Warn if the table has other position columns that differ from the used pair by more than an arcsecond."""
    (used, *others) = pairs
    for other in others:
        try:
            found = table.read(other)
            same = all(
                found[b].unit == columns[a].unit
                and np.allclose(
                    _as_floats(columns[a], a, ""), _as_floats(found[b], b, ""), 0.0, 1 / 3600, equal_nan=True
                )
                for a, b in zip(used, other, strict=True)
            )
        except CatalogError:  # an unused column may be invalid
            same = False
        if not same:
            warnings.warn(
                f"{table.label}: positions are read from {' and '.join(map(repr, used))}, but"
                f" {' and '.join(map(repr, other))} have different values. Choose the columns with ra= and dec=.",
                PositionColumnWarning,
                skip_file_prefixes=(str(Path(__file__).parent),),
            )


def row_count(columns: dict[str, Column], label: str) -> int:
    """Return the number of rows; `CatalogError` if it is zero or differs between columns."""
    lengths = {name: len(column.values) for name, column in columns.items()}
    count = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        raise CatalogError(f"{label}: columns differ in length: {lengths}; give columns of one length.")
    if count == 0:
        raise EmptyCatalogError(f"{label}: the catalog is empty; give at least one target.")
    return count


def positions_in_degrees(
    ra: Column, dec: Column, names: tuple[str, str], unit: Unit, label: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return checked positions ``(ra, dec)`` in degrees, ``(N,)`` each, RA wrapped to [0, 360).

    Parameters
    ----------
    ra, dec
        Columns of N numbers.
    names
        Names of these columns, for messages.
    unit
        Unit of the numbers; if None, the unit of the columns, or degrees if they have none.
    label
        Name of the table, for messages.

    Raises
    ------
    CatalogError
        If a column does not hold numbers, or a unit is not an angle.
    CoordinateError
        If a position is missing, not finite or out of range.

    Warns
    -----
    PositionUnitWarning
        If positions without a unit could be radians.
    """
    if unit is None and (ra.unit is None) != (dec.unit is None):
        raise CatalogError(
            f"{label}: {names[0]!r} has unit {ra.unit} and {names[1]!r} has unit {dec.unit}; set both units in the table, or"
            " give unit=."
        )
    unitless = unit is None and ra.unit is None
    ra_deg, dec_deg = degrees_of({names[0]: ra, names[1]: dec}, names, unit, label).values()
    _check_positions(ra_deg, dec_deg, names, label)
    if unitless and np.abs(ra_deg).max() <= 2 * np.pi and np.abs(dec_deg).max() <= np.pi / 2:
        # skip_file_prefixes makes the warning point at the caller of this package's `from_any` or `from_arrays`.
        warnings.warn(
            f"{label}: {names[0]!r} and {names[1]!r} have no unit and all values lie within 2 pi and pi/2, so they may be"
            " radians; they are read as degrees. Set the unit in the table, or give unit='deg' or unit='rad'.",
            PositionUnitWarning,
            skip_file_prefixes=(str(Path(__file__).parent),),
        )
    wrapped = ra_deg % 360.0
    wrapped[wrapped == 360.0] = 0.0  # -1e-17 % 360 is 360 in floating point
    return wrapped, np.clip(dec_deg, -90.0, 90.0)


def degrees_of(
    columns: Mapping[str, Column], names: tuple[str, str], unit: Unit, label: str
) -> dict[str, NDArray[np.float64]]:
    """Return unchecked positions ``(N,)`` in degrees as ``ra`` and ``dec``, those that ``columns`` holds by their names."""
    given = (unit, unit) if unit is None or isinstance(unit, str) else tuple(unit)
    if isinstance(unit, str) and "," in unit:
        given = tuple(one.strip() for one in unit.split(","))
    if len(given) != 2:
        raise CatalogError(f"unit={unit!r} is invalid; give one unit, or one each for RA and Dec: 'hourangle,deg'.")
    return {
        own: _as_floats(columns[name], name, label) * _degrees_per(one or columns[name].unit or "deg", name, label)
        for own, name, one in zip(("ra", "dec"), names, given, strict=True)
        if name in columns
    }


def _as_floats(column: Column, name: str, label: str) -> NDArray[np.float64]:
    if isinstance(column.values, list) or column.values.dtype.kind not in "iuf" or column.values.ndim != 1:
        raise CatalogError(
            f"{label}: column {name!r} does not hold one number per row; give positions as numbers, in degrees or with a"
            " unit (convert text such as 10h23m with astropy's SkyCoord first)."
        )
    values = column.values.astype(np.float64)
    if column.null is not None:
        values[column.null] = np.nan
    return values


def _degrees_per(unit: str, name: str, label: str) -> float:
    known = _DEGREES | _RADIANS
    if unit.lower() in known:
        return float(known[unit.lower()])
    from astropy import units

    try:
        return float(units.Unit(unit).to(units.deg))
    except (ValueError, TypeError, units.UnitsError) as error:
        raise CatalogError(
            f"{label}: {name!r} has unit {unit!r}, which is not an angle; give unit='deg', 'rad' or 'hourangle'."
        ) from error


def _check_positions(ra: NDArray[np.float64], dec: NDArray[np.float64], names: tuple[str, str], label: str) -> None:
    finite = np.isfinite(ra) & np.isfinite(dec)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        raise CoordinateError(
            f"{label}: {len(rows)} of {len(ra)} positions ({names[0]!r}, {names[1]!r}) are missing or not finite:"
            f" {format_rows(rows)}. Remove these rows or give them positions."
        )
    inside = (ra >= -180.0 - _ROUNDING) & (ra <= 360.0 + _ROUNDING) & (np.abs(dec) <= 90.0 + _ROUNDING)
    if not inside.all():
        rows = np.flatnonzero(~inside)
        first = f"{ra[rows[0]]:.6g}, {dec[rows[0]]:.6g}"
        raise CoordinateError(
            f"{label}: {len(rows)} of {len(ra)} positions ({names[0]!r}, {names[1]!r}) are out of range, the first"
            f" ({first}) degrees: {format_rows(rows)}. RA must be in -180 to 360 and Dec in -90 to 90; check whether the"
            " columns are swapped or the unit is wrong."
        )


def check_ids(column: Column, name: str, label: str) -> Ids:
    """Return the ids ``(N,)``, integers or strings; `CatalogError` if one is missing or inexact."""
    values = column.values
    empty = np.zeros(len(values), np.bool_) if column.null is None else column.null
    if isinstance(values, list):
        empty = empty | np.array([not text.strip() for text in values], np.bool_)
    if empty.any():
        rows = np.flatnonzero(empty)
        raise CatalogError(f"{label}: id column {name!r} has no value in {format_rows(rows)}; give every target an id.")
    if isinstance(values, list):
        return values
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        raise CatalogError(
            f"{label}: id column {name!r} holds neither integers nor strings; choose another with object_id=, or drop it to"
            " use row numbers."
        )
    return _as_integers(values, name, label)


def warn_about_repeated_ids(ids: Ids, name: str, label: str) -> None:
    """Warn if several rows have one id: each is a target of its own, but nothing can find it by its id alone."""
    if repeats_ids(ids):
        warnings.warn(
            _repeated_ids_message(np.asarray(ids, object if isinstance(ids, list) else None), name, label),
            RepeatedIdWarning,
            skip_file_prefixes=(str(Path(__file__).parent),),
        )


def _as_integers(values: NDArray[Any], name: str, label: str) -> NDArray[np.int64] | NDArray[np.uint64]:
    """Return ids as int64, or as uint64 if one exceeds int64; `CatalogError` if the conversion would change one."""
    if values.dtype.kind == "u" and int(values.max(initial=0)) > np.iinfo(np.int64).max:
        return values.astype(np.uint64)
    if values.dtype.kind == "f":
        # Above 2**53 neighbouring integers have the same float value: such ids were already damaged in the table.
        bad = ~(np.isfinite(values) & (np.abs(values) < 2.0**53) & (values == np.trunc(values)))
        if bad.any():
            raise CatalogError(
                f"{label}: id column {name!r} ({values.dtype}) has values that are not exact 64-bit integers:"
                f" {format_rows(np.flatnonzero(bad))}. Store ids as int64 or choose another column with object_id=."
            )
    return values.astype(np.int64)


def _repeated_ids_message(ids: NDArray[Any], name: str, label: str) -> str:
    order = np.argsort(ids, kind="stable")
    same = ids[order[1:]] == ids[order[:-1]]
    later = np.sort(order[1:][same])
    first = ids[later[0]]
    return (
        f"{label}: {len(later)} ids of column {name!r} occur more than once, the first {first} in"
        f" {format_rows(np.flatnonzero(ids == first))}; repeated in {format_rows(later)}. Each row is a target of its own; if that is"
        f" not meant, remove the repeated rows or choose another column with object_id= of {_WHERE}."
    )


def check_extra_column(column: Column, name: str, label: str) -> NDArray[Any] | list[str]:
    """Return the values of an extra column, ``(N, ...)``.

    Integers and booleans of a column with missing values become float64, which holds NaN for these.

    Raises
    ------
    CatalogError
        If a string is missing, or an integer beside missing values is too large for float64.
    """
    values, null = column.values, column.null
    if null is None or (not isinstance(values, list) and values.dtype.kind == "f"):
        return values
    rows = np.flatnonzero(null)
    if isinstance(values, list) or values.ndim > 1:
        raise CatalogError(
            f"{label}: column {name!r} has no value in {format_rows(rows)}; only numbers can be missing (as NaN). Fill these"
            " rows or leave the column out."
        )
    floats = np.where(null, np.nan, values.astype(np.float64))
    if values.dtype.kind != "b" and (np.abs(floats[~null]) > 2.0**53).any():
        raise CatalogError(
            f"{label}: column {name!r} has no value in {format_rows(rows)}, and integers beyond 2**53, which floats with NaN"
            " cannot hold exactly. Fill these rows or leave the column out."
        )
    return floats
