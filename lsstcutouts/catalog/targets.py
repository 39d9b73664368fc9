"""The catalog itself."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CatalogError
from .checks import (
    ID_NAMES,
    common_length,
    existing,
    extra_column,
    first_name,
    no_such_column,
    position_names,
    positions_in_degrees,
    wanted_columns,
    whole_ids,
)
from .columns import Source, source_from_mapping
from .files import open_source
from .select import matching

__all__ = ["Catalog"]


@dataclass(frozen=True, eq=False)
class Catalog:
    """Targets as a struct of arrays, in the order of the table they came from.

    Make one with `from_any` or `from_arrays`, which check what they take.

    Attributes
    ----------
    object_id
        ``(N,)``, unique.
    ra, dec
        ``(N,)``, degrees ICRS; RA in [0, 360), Dec in [-90, 90].
    columns
        Extra columns that travel with each target: ``(N, ...)`` arrays, texts as lists.
    source
        Where the targets came from, for messages.
    """

    object_id: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    columns: dict[str, NDArray[Any] | list[str]] = field(default_factory=dict)
    source: str = "arrays"

    @classmethod
    def from_any(
        cls,
        source: Any,
        *,
        ra: str | None = None,
        dec: str | None = None,
        object_id: str | None = None,
        columns: Sequence[str] = (),
        unit: str | None = None,
    ) -> "Catalog":
        """Return the catalog that a file or a table holds.

        Parameters
        ----------
        source
            A catalog (returned as it is; ``columns`` must be among its own); the path of a Parquet (``.parquet``,
            ``.pq``; also a folder of them), CSV, ECSV, FITS (first table) or VOTable (``.vot``, ``.votable``,
            ``.xml``) file; an astropy ``Table`` or ``QTable``; a pandas ``DataFrame``; a pyarrow ``Table``; a mapping
            of names to arrays.
        ra, dec
            Names of the position columns. By default the first pair found, whatever its capitals, of ``ra dec``,
            ``coord_ra coord_dec``, ``raJ2000 decJ2000``, ``RAJ2000 DEJ2000``, ``ra_icrs dec_icrs``, ``RA_ICRS
            DE_ICRS``, ``ra_deg dec_deg``, ``right_ascension declination``, ``ALPHA_J2000 DELTA_J2000``.
        object_id
            Name of the id column. By default the first of ``object_id``, ``objectId``, ``diaObjectId``, whatever its
            capitals, else the row number.
        columns
            Names of extra columns to take along.
        unit
            Unit of both positions, such as ``"deg"`` or ``"rad"``; goes before the unit that the table states. A
            table without units is taken to be in degrees.

        Raises
        ------
        CatalogError
            If the table cannot be read, is empty, lacks a column, repeats an id, or has a column that no batch can
            carry.
        CoordinateError
            If a position is missing, not finite or out of range.

        Warns
        -----
        PositionUnitWarning
            If positions without a unit all lie within 2 pi and pi / 2.
        """
        wanted = wanted_columns(columns)
        if isinstance(source, Catalog):
            return source._checked_for(wanted)
        table = open_source(source)
        id_name = existing(table, object_id) if object_id is not None else first_name(table, ID_NAMES)
        return cls._from_table(table, position_names(table, ra, dec), id_name, wanted, unit)

    @classmethod
    def from_arrays(
        cls,
        ra: ArrayLike,
        dec: ArrayLike,
        object_id: ArrayLike | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
        *,
        unit: str | None = None,
    ) -> "Catalog":
        """Return a catalog of positions in degrees ICRS, or in the unit given or that the arrays carry.

        Parameters
        ----------
        ra, dec
            ``(N,)`` numbers or astropy Quantities.
        object_id
            ``(N,)`` integers; the row number by default.
        columns
            Extra columns, each ``(N, ...)`` or N texts.
        unit
            As in `from_any`, whose errors and warnings apply.
        """
        extra = dict(columns or {})
        wanted = wanted_columns(tuple(extra))
        arrays: dict[str, Any] = {"ra": np.atleast_1d(ra), "dec": np.atleast_1d(dec), **extra}
        if object_id is not None:
            arrays["object_id"] = np.atleast_1d(object_id)
        id_name = None if object_id is None else "object_id"
        return cls._from_table(source_from_mapping(arrays, "arrays"), ("ra", "dec"), id_name, wanted, unit)

    @classmethod
    def _from_table(
        cls, table: Source, position: tuple[str, str], id_name: str | None, wanted: Sequence[str], unit: str | None
    ) -> "Catalog":
        names = [*position, *([] if id_name is None else [id_name]), *(existing(table, name) for name in wanted)]
        found = table.read(list(dict.fromkeys(names)))
        count = common_length(found, table.label)
        ra, dec = positions_in_degrees(found[position[0]], found[position[1]], position, unit, table.label)
        ids = np.arange(count, dtype=np.int64) if id_name is None else whole_ids(found[id_name], id_name, table.label)
        extra = {name: extra_column(found[name], name, table.label) for name in wanted}
        return cls(ids, ra, dec, extra, table.label)

    def __len__(self) -> int:
        return len(self.object_id)

    def __getitem__(self, rows: slice | ArrayLike) -> "Catalog":
        return self.take(rows)

    def take(self, rows: slice | ArrayLike) -> "Catalog":
        """Return the catalog of some rows, in their order.

        Parameters
        ----------
        rows
            Row numbers ``(M,)``, a mask ``(N,)`` bool, or a slice. No rows at all, or a row twice, is allowed here.
        """
        index = rows if isinstance(rows, slice) else np.asarray(rows, None if np.size(rows) else np.int64)
        chosen = np.atleast_1d(np.arange(len(self))[index])
        columns = {
            name: [values[row] for row in chosen.tolist()] if isinstance(values, list) else values[chosen]
            for name, values in self.columns.items()
        }
        return type(self)(self.object_id[chosen], self.ra[chosen], self.dec[chosen], columns, self.source)

    def select(self, expression: str) -> "Catalog":
        """Return the catalog of the rows that an expression is true for, such as ``"mag_i < 23 and label == 1"``.

        Parameters
        ----------
        expression
            On ``object_id``, ``ra``, ``dec`` and the extra columns, in the words of `lsstcutouts.catalog.matching`.

        Raises
        ------
        ConfigurationError
            If it cannot be read, or does not fit the columns.
        """
        own = {"object_id": self.object_id, "ra": self.ra, "dec": self.dec}
        return self.take(matching(expression, {**own, **self.columns}, len(self)))

    def fingerprint(self) -> str:
        """Return the SHA-256 of the content: ids, positions and extra columns in row order, whatever the machine."""
        digest = hashlib.sha256(b"lsstcutouts catalog 1")
        _hash_array(digest, self.object_id)
        _hash_array(digest, self.ra)
        _hash_array(digest, self.dec)
        for name in sorted(self.columns):
            values = self.columns[name]
            digest.update(f"\0{name}\0".encode())
            if isinstance(values, list):
                texts = [text.encode() for text in values]
                _hash_array(digest, np.array([len(text) for text in texts], np.int64))
                digest.update(b"".join(texts))
            else:
                _hash_array(digest, values)
        return digest.hexdigest()

    def _checked_for(self, wanted: Sequence[str]) -> Self:
        missing = [name for name in wanted if name not in self.columns]
        if missing:
            raise CatalogError(no_such_column(self.source, missing[0], tuple(self.columns)))
        return self


def _hash_array(digest: Any, values: NDArray[Any]) -> None:
    portable = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    digest.update(f"{portable.dtype.str}{portable.shape}".encode())
    digest.update(portable.tobytes())
