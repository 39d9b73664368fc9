"""The catalog of targets: ids, positions and extra columns, checked."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CatalogError, ConfigurationError
from ..source.notebook import html_table
from .astro import degrees_icrs
from .checks import (
    Unit,
    check_column_names,
    check_extra_column,
    check_ids,
    find_id_column,
    find_position_columns,
    missing_column_message,
    positions_in_degrees,
    require_column,
    row_count,
    warn_about_other_positions,
    warn_about_repeated_ids,
)
from .columns import OpenTable, table_from_mapping
from .files import has_path, is_skycoord, open_table
from .footprint import FOOTPRINT_COLUMNS, Footprint, footprint_of
from .ids import Ids, Values, take_rows
from .rows import read_rows
from .select import matching_rows
from .subset import Subset

__all__ = ["Catalog"]


@dataclass(frozen=True, eq=False, repr=False)
class Catalog:
    """Targets as arrays, in the row order of the table.

    Create a catalog with `from_any` or `from_arrays`, which check their input.

    Attributes
    ----------
    object_id
        ``(N,)``: int64, uint64 if one exceeds int64, or a list of strings. Several rows may have one id.
    ra, dec
        ``(N,)``, degrees ICRS; RA in [0, 360), Dec in [-90, 90].
    columns
        Extra columns that a batch contains for each target: ``(N, ...)`` arrays, strings as lists.
    source
        File or table that the targets come from, for messages.
    footprint
        Which positions a plan draws in place of rows, of which there are none then; None for a catalog of rows.
    """

    object_id: Ids
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    columns: dict[str, Values] = field(default_factory=dict)
    source: str = "arrays"
    footprint: Footprint | None = None

    @classmethod
    def from_any(
        cls,
        source: Any,
        *,
        ra: str | None = None,
        dec: str | None = None,
        object_id: str | None = None,
        columns: Sequence[str] = (),
        unit: Unit = None,
        allow_overflow: bool = False,
        select: str | None = None,
        cone: Sequence[float] | None = None,
    ) -> "Catalog":
        """Read a catalog, or a part of it, from files, a table, coordinates or a query result.

        Parameters
        ----------
        source
            A catalog (returned unchanged; it must have all ``columns``); the path or ``file://`` URL of a Parquet
            (``.parquet``, ``.pq``; also a folder of them), CSV, ECSV, FITS (first table) or VOTable (``.vot``,
            ``.votable``, ``.xml``) file; a pattern such as ``"part-*.parquet"`` or a list of these, which are
            concatenated; an astropy ``Table``, ``QTable`` or ``SkyCoord``; the result of a TAP query (pyvo); a pandas
            ``DataFrame``; a pyarrow ``Table``; a mapping of names to arrays. A HATS catalog or collection: its folder, its
            URL (``https://``, ``s3://``, ``hf://`` ...) or the object of ``hats``; a catalog of ``lsdb``. In configurations
            also a dictionary of ``path`` and other arguments of this function. Without a catalog: a `Footprint` or
            ``{"footprint": {"n": 1000}}``, whose positions the plan draws. A column may have different types in the
            files of one catalog as long as one type holds all values exactly.
        ra, dec
            Names of the position columns. By default the first pair found, in any capitalisation, of ``ra dec``,
            ``coord_ra coord_dec``, ``raJ2000 decJ2000``, ``RAJ2000 DEJ2000``, ``ra_icrs dec_icrs``, ``RA_ICRS
            DE_ICRS``, ``ra_deg dec_deg``, ``right_ascension declination``, ``ALPHA_J2000 DELTA_J2000``.
        object_id
            Name of the id column, of integers or strings. By default the first of ``object_id``, ``objectId``,
            ``diaSourceId``, ``diaObjectId``, ``sourceId``, ``source_id``, ``source``, in any capitalisation, otherwise
            the row number. A column ``source`` with repeated or missing values is not used as id.
        columns
            Names of extra columns that each batch contains. Integers and booleans of a column with missing values become
            floats, which hold NaN for these.
        unit
            Unit of both RA and Dec, such as ``"deg"`` or ``"rad"``, or one each, such as ``"hourangle,deg"``; overrides
            the unit in the table. The default is the unit in the table, or degrees if it has none.
        allow_overflow
            Whether a query result may be truncated at the row limit (``QUERY_STATUS=OVERFLOW``). By default this is
            an error, since most of the targets may be missing.
        select
            Expression on the columns of the table that is true for the rows to keep, such as ``"mag_i < 23"``, in the
            syntax of `lsstcutouts.catalog.select.matching_rows`. In it, ``ra`` and ``dec`` are degrees ICRS and
            ``object_id`` is the id, whatever their columns are called. A missing value meets no expression.
        cone
            RA, Dec and radius, degrees ICRS, of a cone that contains the positions to keep. Of a HATS catalog only the
            partitions and row groups are read that can hold rows of ``select`` and ``cone``, and only the columns needed.

        Raises
        ------
        CatalogError
            If the table cannot be read, is empty, lacks a column, has a column of an unsupported type, or is the result
            of a query that failed or was truncated.
        CoordinateError
            If a position is missing, not finite or out of range.
        ConfigurationError
            If ``select`` or ``cone`` is invalid or does not fit the table.
        DependencyError
            If a HATS catalog needs a package that is not installed.
        MemoryBudgetError
            If the rows of a HATS catalog need more memory than is free.

        Warns
        -----
        PositionUnitWarning
            If positions without a unit all lie within 2 pi and pi / 2.
        PositionColumnWarning
            If several pairs of position columns have different values.
        RepeatedIdWarning
            If several rows have one id.
        """
        wanted, subset = check_column_names(columns), Subset(select, cone)
        if has_path(source):
            given = {"ra": ra, "dec": dec, "object_id": object_id, "unit": unit, "select": select, "cone": cone}
            options = {"allow_overflow": allow_overflow, **source, **{n: v for n, v in given.items() if v is not None}}
            if unknown := sorted(set(options) - {"path", "allow_overflow", *given}):
                raise ConfigurationError(
                    f"catalog={dict(source)} has the unknown setting {unknown[0]!r}; besides path there are {', '.join(given)}"
                    " and allow_overflow"
                )
            return cls.from_any(options.pop("path"), columns=wanted, **options)
        if (request := footprint_of(source)) is not None:
            named = {"ra": ra, "dec": dec, "object_id": object_id, "unit": unit, "select": select, "cone": cone}
            return cls._of_footprint(request, wanted, [name for name, value in named.items() if value is not None])
        if isinstance(source, Catalog):
            if subset:
                raise CatalogError("select= and cone= are for tables; use catalog.select(...) for a Catalog.")
            missing = [name for name in wanted if name not in source.columns]
            if missing:
                raise CatalogError(missing_column_message(source.source, missing[0], tuple(source.columns)))
            return source
        table = open_table(source, allow_overflow=allow_overflow)
        ids = require_column(table, object_id) if object_id is not None else find_id_column(table)
        return cls._from_table(table, find_position_columns(table, ra, dec), ids, wanted, unit, subset)

    @classmethod
    def from_arrays(
        cls,
        ra: ArrayLike | Any,
        dec: ArrayLike | None = None,
        object_id: ArrayLike | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
        *,
        unit: Unit = None,
    ) -> "Catalog":
        """Create a catalog from arrays of positions, in degrees ICRS unless ``unit`` or the arrays say otherwise.

        Parameters
        ----------
        ra, dec
            ``(N,)`` numbers or astropy Quantities; or a ``SkyCoord`` as ``ra`` without ``dec``.
        object_id
            ``(N,)`` integers or strings; the row number by default.
        columns
            Extra columns, each ``(N, ...)`` or N strings.
        unit
            As in `from_any`; its errors and warnings apply too.
        """
        extra = dict(columns or {})
        wanted = check_column_names(tuple(extra))
        if is_skycoord(ra):
            if dec is not None:
                raise CatalogError(
                    "dec= is given together with a SkyCoord, which contains both RA and Dec; leave dec= out."
                )
            ra, dec = degrees_icrs(ra)
            unit = "deg"
        elif dec is None:
            raise CatalogError(
                "dec= is missing; give ra= and dec=, or a SkyCoord. A table is planned: fetch_plan(plan(table))."
            )
        arrays: dict[str, Any] = {"ra": np.atleast_1d(ra), "dec": np.atleast_1d(dec), **extra}
        if object_id is not None:
            one = isinstance(object_id, str | bytes) or np.ndim(object_id) == 0
            arrays["object_id"] = [object_id] if one else object_id
        ids = None if object_id is None else "object_id"
        return cls._from_table(table_from_mapping(arrays, "arrays"), [("ra", "dec")], ids, wanted, unit)

    @classmethod
    def _of_footprint(cls, request: Footprint, wanted: Sequence[str], unused: Sequence[str]) -> "Catalog":
        if unused:
            raise ConfigurationError(
                f"{unused[0]}= is for tables; a footprint has no columns before its positions are drawn: leave it out"
            )
        if missing := [name for name in wanted if name not in FOOTPRINT_COLUMNS]:
            raise CatalogError(missing_column_message("footprint", missing[0], FOOTPRINT_COLUMNS))
        none = np.zeros(0)
        columns: dict[str, Values] = {name: none.astype(np.int64) for name in wanted}
        return cls(none.astype(np.int64), none, none, columns, str(request), request)

    @classmethod
    def _from_table(
        cls,
        table: OpenTable,
        positions: Sequence[tuple[str, str]],
        id_column: str | None,
        wanted: Sequence[str],
        unit: Unit,
        subset: Subset = Subset(),
    ) -> "Catalog":
        position = positions[0]
        names = [
            *position,
            *([] if id_column is None else [id_column]),
            *(require_column(table, name) for name in wanted),
        ]
        found = read_rows(table, list(dict.fromkeys(names)), subset, position, id_column, unit)
        count = row_count(found, table.label)
        in_degrees = "deg" if table.position == position and found[position[0]].unit is None else None
        ra, dec = positions_in_degrees(
            found[position[0]], found[position[1]], position, unit or in_degrees, table.label
        )
        if not subset:
            warn_about_other_positions(table, found, positions)
        ids: Ids = np.arange(count, dtype=np.int64)
        if id_column is not None:
            ids = check_ids(found[id_column], id_column, table.label)
            warn_about_repeated_ids(ids, id_column, table.label)
        extra = {name: check_extra_column(found[name], name, table.label) for name in wanted}
        del found
        if (arrow := sys.modules.get("pyarrow")) is not None:
            arrow.default_memory_pool().release_unused()  # which would keep more than the catalog takes
        shared = {name: _read_only(values) for name, values in extra.items()}
        return cls(_read_only(ids), _read_only(ra), _read_only(dec), shared, table.label)

    def __len__(self) -> int:
        return len(self.object_id)

    def __repr__(self) -> str:
        if self.footprint is not None:
            return f"Catalog({self.footprint})"
        return f"Catalog({len(self)} targets of {self.source!r}, columns {','.join(self.columns) or 'none'})"

    def _repr_html_(self) -> str:
        # A catalog across RA 0 is shown from -1 to 1 degrees, not from 0 to 360.
        ra = self.ra if not len(self) or np.ptp(self.ra) < 180 else (self.ra + 180) % 360 - 180
        ends = [f"{one.min():.4f} to {one.max():.4f}" if len(self) else None for one in (ra, self.dec)]
        rows: list[tuple[str, object]] = [
            ("targets", len(self)),
            ("ids", "text" if isinstance(self.object_id, list) else str(self.object_id.dtype)),
            ("RA, degrees", ends[0]),
            ("Dec, degrees", ends[1]),
            ("columns", list(self.columns)),
            ("source", self.source),
        ]
        return html_table("Catalog", rows)

    def __getitem__(self, rows: slice | ArrayLike) -> "Catalog":
        return self.take(rows)

    def take(self, rows: slice | ArrayLike) -> "Catalog":
        """Return a catalog of some rows, in the given order.

        Parameters
        ----------
        rows
            Row numbers ``(M,)``, a mask ``(N,)`` bool, or a slice. It may be empty or repeat rows.
        """
        self._check_rows()
        if isinstance(rows, slice):
            chosen = np.arange(*rows.indices(len(self)))
        else:
            index = np.asarray(rows, None if np.size(rows) else np.int64)
            chosen = np.atleast_1d(np.arange(len(self))[index])
        columns = {name: take_rows(values, chosen) for name, values in self.columns.items()}
        return type(self)(take_rows(self.object_id, chosen), self.ra[chosen], self.dec[chosen], columns, self.source)

    def select(self, expression: str) -> "Catalog":
        """Return a catalog of the rows for which an expression is true, such as ``"mag_i < 23 and label == 1"``.

        Parameters
        ----------
        expression
            On ``object_id``, ``ra``, ``dec`` and the extra columns, in the syntax of
            `lsstcutouts.catalog.select.matching_rows`.

        Raises
        ------
        ConfigurationError
            If the expression has a syntax error or does not fit the columns.
        """
        self._check_rows()
        own = {"object_id": self.object_id, "ra": self.ra, "dec": self.dec}
        return self.take(matching_rows(expression, {**own, **self.columns}, len(self)))

    def _check_rows(self) -> None:
        if self.footprint is not None:
            raise CatalogError(
                f"{self.footprint}: its positions are not drawn yet; make a plan, whose object_id, ra and dec hold them"
            )

    def fingerprint(self) -> str:
        """Return the SHA-256 of ids, positions and extra columns in row order; equal on every machine."""
        digest = hashlib.sha256(b"lsstcutouts catalog 1")
        if self.footprint is not None:
            digest.update(str(self.footprint).encode())
        _hash_values(digest, self.object_id)
        _hash_values(digest, self.ra)
        _hash_values(digest, self.dec)
        for name in sorted(self.columns):
            digest.update(f"\0{name}\0".encode())
            _hash_values(digest, self.columns[name])
        return digest.hexdigest()


def _hash_values(digest: Any, values: Values) -> None:
    if isinstance(values, list):
        texts = [text.encode() for text in values]
        _hash_values(digest, np.array([len(text) for text in texts], np.int64))
        digest.update(b"".join(texts))
        return
    portable = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    digest.update(f"{portable.dtype.str}{portable.shape}".encode())
    digest.update(portable.tobytes())


def _read_only[V: (NDArray[Any], Ids, Values)](values: V) -> V:
    """Return values that nobody changes by accident: plans share them."""
    if isinstance(values, list):
        return values
    view = values.view()
    view.flags.writeable = False
    return view
