"""Partitions of a large catalog along the sky: HEALPix cells, and the rows of each as an Arrow table."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import CatalogError, ConfigurationError
from .checks import RESERVED_NAMES, find_id_column
from .files import has_path, hats_source, is_lsdb, open_table
from .hats_table import hats_cells, hats_path, main_catalog
from .healpix import ORDER, Cell, divide, healpix_of
from .ids import Values
from .row_sources import HatsRows, LsdbRows, RowSource, StreamedRows, TableRows
from .subset import Subset
from .targets import Catalog

__all__ = ["LargeCatalog", "Partition", "PartitionRows", "to_arrow_column"]

OWN_COLUMNS = RESERVED_NAMES | {
    "_healpix_29",
    "band",
    "flux",
    "flux_scale",
    "mask_bits",
    "outcome",
    "psf_fwhm",
    "reason",
    "row",
    "scale",
    "variance_scale",
}
"""Columns that an export or a table of predictions has besides those of its catalog."""

_ROW = "\x01row"
"""Column with the number of a row; like those of ids and positions of a table, no column of a catalog has this name."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Partition:
    """The rows of a catalog in one cell of the sky."""

    cell: Cell
    source: RowSource


@dataclass(frozen=True, eq=False)
class PartitionRows:
    """Rows of a partition, ``n``, in the order of ``_healpix_29``.

    Attributes
    ----------
    catalog
        Ids and positions.
    row
        ``(n,)`` number of each row: of the whole catalog, or of the partition where the catalog was never held whole. Only
        rows that ``select`` and ``cone`` keep are counted.
    healpix
        ``(n,)`` cell of order 29, ascending.
    table
        The catalog's own columns, unchanged; ``slice`` gives some rows of them.
    """

    catalog: Catalog
    row: NDArray[np.int64]
    healpix: NDArray[np.int64]
    table: pa.Table | StreamedRows

    def __len__(self) -> int:
        return len(self.row)

    def whole_table(self) -> pa.Table:
        """Return the catalog's own columns of all rows."""
        return self.table.slice(0, len(self))

    @property
    def copied_bytes(self) -> int:
        """Bytes of a row of the catalog's own columns, about."""
        if isinstance(self.table, StreamedRows):
            return int(self.table.row_bytes)
        return int(self.table.nbytes // max(1, len(self)))


@dataclass(frozen=True, eq=False)
class LargeCatalog:
    """A catalog that is read partition by partition.

    Create it with `open`. It pickles without rows.

    Attributes
    ----------
    label
        Name for messages.
    rows
        Number of rows, before ``select`` and ``cone`` if the catalog is not in memory; None if it is not known.
    columns
        Columns that are copied.
    position, object_id
        Names of the columns with position and id.
    unit, subset
        As in `Catalog.from_any`.
    healpix
        Column with the cell of order 29, if the catalog has one.
    cells
        The partitions, along the sky.
    identity
        Differs for another catalog or another version of it.
    numbered
        Whether rows are numbered through the whole catalog, not through each partition.
    """

    label: str
    rows: int | None
    columns: tuple[str, ...]
    position: tuple[str, str]
    object_id: str
    unit: Any
    subset: Subset
    healpix: str | None
    cells: tuple[Cell, ...]
    identity: str
    numbered: bool
    _source: Any = None

    @classmethod
    def open(
        cls,
        source: Any,
        *,
        row_bytes: int,
        most_bytes: int,
        ra: str | None = None,
        dec: str | None = None,
        object_id: str | None = None,
        columns: Sequence[str] | None = None,
        unit: Any = None,
        select: str | None = None,
        cone: Sequence[float] | None = None,
    ) -> "LargeCatalog":
        """Open a catalog: of HATS and LSDB only the list of partitions is read, other tables are read whole.

        Parameters
        ----------
        source, ra, dec, object_id, unit, select, cone
            As in `Catalog.from_any`.
        columns
            Columns to copy; all of them by default.
        row_bytes, most_bytes
            Bytes that a row makes, and that a partition of a table in memory may make: it is divided into cells so.
        """
        subset = Subset(select, cone)
        if has_path(source):
            given = {"ra": ra, "dec": dec, "object_id": object_id, "unit": unit, "select": select, "cone": cone}
            merged: dict[str, Any] = {**source, **{name: value for name, value in given.items() if value is not None}}
            return cls.open(merged.pop("path"), row_bytes=row_bytes, most_bytes=most_bytes, columns=columns, **merged)
        hats = hats_source(source)
        if hats is None and not is_lsdb(source):
            names = {"ra": ra, "dec": dec, "object_id": object_id, "unit": unit, "select": select, "cone": cone}
            return cls._of_table(source, columns, names, row_bytes, most_bytes)
        if hats is not None:
            if isinstance(hats, str) and "://" not in hats:
                hats = str(Path(hats).absolute())  # processes of Dask may work in another folder
            label, catalog = main_catalog(hats)
            structure, known = catalog, list(catalog.schema.names)
        else:
            label, catalog = f"lsdb catalog {source.name}", source
            structure, known = source.hc_structure, list(source.columns)
        info = structure.catalog_info
        found = object_id or find_id_column(open_table(source))
        if found is None:
            raise ConfigurationError(
                f"{label} has no column of ids; give object_id=NAME, such as object_id=_healpix_29, which identifies the rows"
            )
        position = (ra or info.ra_column, dec or info.dec_column)
        for name in (
            *position,
            found,
            *(columns or ()),
            *(n for n in subset.columns if n not in {"ra", "dec", "object_id"}),
        ):
            if name not in known:
                raise CatalogError(f"{label} has no column {name!r}; it has {', '.join(known[:20])}")
        pixels = hats_cells(structure, subset)
        cells = tuple(Cell(int(pixel.order), int(pixel.pixel)) for pixel in pixels)
        healpix = info.healpix_column if (info.healpix_order or ORDER) == ORDER else None
        about = [info.catalog_name, info.total_rows, [str(cell) for cell in cells], known]
        about += [getattr(info, "hats_creation_date", None), str(structure.schema) if hats is not None else ""]
        if hats is None and cells:
            about.append(str(_delayed(source, cells[0]).key))  # holds a hash of what was done with the catalog
        named = ra is not None or dec is not None
        return cls(
            label=label,
            rows=info.total_rows,
            columns=_copied(label, known if columns is None else columns, healpix),
            position=position,
            object_id=found,
            unit=unit or (None if named else "deg"),
            subset=subset,
            healpix=healpix if healpix in known else None,
            cells=cells,
            identity=hashlib.sha256(repr(about).encode()).hexdigest()[:16],
            numbered=False,
            _source=catalog,
        )

    @classmethod
    def _of_table(
        cls, source: Any, columns: Sequence[str] | None, names: dict[str, Any], row_bytes: int, most_bytes: int
    ) -> "LargeCatalog":
        if isinstance(source, Catalog):
            if names["cone"] is not None:
                raise ConfigurationError("cone= is for tables; a Catalog has the rows that it was made with")
            catalog = source if names["select"] is None else source.select(names["select"])
            wanted = list(catalog.columns if columns is None else columns)
        else:
            wanted = list(_copied(str(source), open_table(source).names if columns is None else columns, None))
            catalog = Catalog.from_any(source, columns=wanted, **names)
        own = {"object_id": catalog.object_id, "ra": catalog.ra, "dec": catalog.dec}
        table = pa.table(
            {
                **{f"\x01{name}": to_arrow_column(values) for name, values in own.items()},
                _ROW: pa.array(np.arange(len(catalog))),
                **{name: to_arrow_column(catalog.columns[name]) for name in wanted},
            }
        )
        healpix = healpix_of(catalog.ra, catalog.dec)
        order = np.argsort(healpix, kind="stable")
        table, healpix = table.take(pa.array(order)), healpix[order]
        cells = divide(healpix, np.full(len(healpix), row_bytes), most_bytes)
        return cls(
            label=catalog.source,
            rows=len(catalog),
            columns=tuple(wanted),
            position=("\x01ra", "\x01dec"),
            object_id="\x01object_id",
            unit="deg",
            subset=Subset(),
            healpix=None,
            cells=tuple(cells),
            identity=catalog.fingerprint()[:16],
            numbered=True,
            _source=(table, healpix),
        )

    def __len__(self) -> int:
        return len(self.cells)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None}

    def partition(self, cell: Cell) -> Partition:
        """Return a partition; its rows are read when asked for."""
        label = f"{self.label}: partition {cell}"
        if self.numbered:
            table, healpix = self._source
            low, high = np.searchsorted(healpix, cell.bounds)
            # A slice would pickle with the whole table.
            return Partition(cell, TableRows(table.take(pa.array(np.arange(low, high)))))
        if is_lsdb(self._source):
            return Partition(cell, LsdbRows(_delayed(self._source, cell), label))
        from hats.pixel_math import HealpixPixel

        return Partition(cell, HatsRows(hats_path(self._source, HealpixPixel(cell.order, cell.pixel)), label))

    def partitions(self) -> Iterator[Partition]:
        """Yield the partitions along the sky."""
        return map(self.partition, self.cells)

    def read(self, partition: Partition) -> PartitionRows:
        """Return the rows of a partition that ``select`` and ``cone`` keep.

        Raises
        ------
        EmptyCatalogError
            If there are none.
        """
        own = {"ra": self.position[0], "dec": self.position[1], "object_id": self.object_id}
        tested = [own.get(name, name) for name in self.subset.columns]
        extra = [_ROW] if self.numbered else [self.healpix] if self.healpix else []
        names = [*self.position, self.object_id, *tested, *extra]
        streamed = partition.source.stream(self.columns) is not None
        table = partition.source.read(list(dict.fromkeys(names if streamed else [*names, *self.columns])))
        if not self.numbered:
            table = table.append_column(_ROW, pa.array(np.arange(len(table))))
        catalog = Catalog.from_any(
            table,
            ra=own["ra"],
            dec=own["dec"],
            object_id=self.object_id,
            unit=self.unit,
            columns=[_ROW],
            select=self.subset.select,
            cone=self.subset.cone,
        )
        place = np.asarray(catalog.columns[_ROW], np.int64)
        if self.numbered:
            kept, row = table, place
        else:
            kept, row = (table if len(place) == len(table) else table.take(pa.array(place))), np.arange(len(place))
        if self.healpix:
            healpix = kept[self.healpix].to_numpy().astype(np.int64)
        else:
            healpix = healpix_of(catalog.ra, catalog.dec)
        bare = Catalog(catalog.object_id, catalog.ra, catalog.dec, {}, self.label)
        ascending = not (np.diff(healpix) < 0).any()
        if streamed and ascending:
            return PartitionRows(bare, row, healpix, StreamedRows(partition.source, self.columns, place))
        if streamed:
            kept = partition.source.read(self.columns).take(pa.array(place))
        kept = kept.select(list(self.columns))
        if not ascending:
            order = np.argsort(healpix, kind="stable")
            return PartitionRows(bare.take(order), row[order], healpix[order], kept.take(pa.array(order)))
        return PartitionRows(bare, row, healpix, kept)


def _delayed(catalog: Any, cell: Cell) -> Any:
    """Return a partition of a catalog of LSDB as ``Delayed``."""
    (one,) = catalog.get_partition(cell.order, cell.pixel).to_delayed()
    return one


def to_arrow_column(values: Values) -> pa.Array:
    """Return values as an Arrow array; arrays ``(n, ...)`` become lists of a fixed size."""
    if isinstance(values, list):
        return pa.array(values, pa.string())
    array: pa.Array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, int(size))
    return array


def _copied(label: str, names: Sequence[str], healpix: str | None) -> tuple[str, ...]:
    """Return the columns without those that an export has itself."""
    taken = [name for name in names if name in OWN_COLUMNS]
    if shadowed := [name for name in taken if name not in {healpix, "ra", "dec", "object_id", "tract", "patch"}]:
        _log.warning(
            "%s: the columns %s are not copied, since an export has its own columns of these names; rename them to keep them",
            label,
            ", ".join(shadowed),
        )
    return tuple(name for name in names if name not in taken)
