"""The targets of a gallery: rows of a catalog that are chosen and sorted, and the plan of their cutouts."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bulk.prediction_table import DESCRIPTION, META
from ...catalog.checks import check_ids, find_id_column, find_position_columns, positions_in_degrees, require_column
from ...catalog.columns import Column, OpenTable
from ...catalog.files import open_table
from ...catalog.footprint import FOOTPRINT_COLUMNS, footprint_of
from ...catalog.ids import Ids, Values, take_rows
from ...catalog.rows import read_rows
from ...catalog.subset import Subset
from ...catalog.targets import Catalog
from ...errors import CatalogError, ConfigurationError, CoverageError
from ...plan.arguments import SizeLike
from ...plan.cutout_plan import CutoutPlan
from ...plan.planner import build_plan
from ...plan.read_options import ReadOptions
from ...read.exports.export_description import ExportDescription
from ...read.exports.export_files import is_export
from ...read.exports.plans import export_catalog, export_plan

__all__ = ["GalleryTargets", "Source", "find_targets"]

_EXACT = 2**53
"""Integers beyond it are not exact as float64."""


@dataclass(frozen=True)
class Source:
    """Where rows and pixels come from; None: from the file of predictions or the export, or the usual value.

    Attributes
    ----------
    catalog
        As in `Catalog.from_any`; None for the rows of an export.
    repo, collections, bands, size, dataset_type
        As in `build_plan`; `repo` may be an export.
    ra, dec, object_id, unit
        As in `Catalog.from_any`.
    read
        Options for reading.
    """

    catalog: Any
    repo: Any = None
    collections: str | Sequence[str] | None = None
    bands: str | Sequence[str] | None = None
    size: SizeLike | None = None
    dataset_type: str | None = None
    ra: str | None = None
    dec: str | None = None
    object_id: str | None = None
    unit: Any = None
    read: ReadOptions = ReadOptions()


@dataclass(frozen=True, eq=False)
class GalleryTargets:
    """The n targets of a gallery in its order.

    Attributes
    ----------
    plan
        Plan of their cutouts.
    target
        ``(n,)`` number of each in the plan.
    row
        ``(n,)`` row of each among those that the catalog has, or that ``select`` and ``cone`` keep.
    columns
        All columns of the catalog with one value a row, ``(n,)``.
    outside
        Ids of chosen rows that no image covers, or that the export does not hold, with the reason.
    total
        Number of rows from which they were chosen.
    label
        Name of the catalog.
    """

    plan: CutoutPlan
    target: NDArray[np.int64]
    row: NDArray[np.int64]
    columns: Mapping[str, Values]
    outside: Sequence[tuple[int | str, str]]
    total: int
    label: str

    def __len__(self) -> int:
        return len(self.target)

    def object_id(self, i: int) -> int | str:
        """Return the id of a target."""
        (identity,) = _listed(take_rows(self.plan.object_id, self.target[i : i + 1]))
        return identity  # type: ignore[no-any-return]

    def values(self, i: int) -> dict[str, Any]:
        """Return position and columns of a target by name; text that is missing is empty, numbers are NaN."""
        target = self.target[i]
        position = {"ra": float(self.plan.ra[target]), "dec": float(self.plan.dec[target])}
        return {**position, **{name: values[i] for name, values in self.columns.items()}}


def find_targets(
    source: Source,
    *,
    select: str | None = None,
    cone: Sequence[float] | None = None,
    sort: str | Sequence[str] = (),
    limit: int | None = None,
) -> GalleryTargets:
    """Choose and sort the rows of a catalog, and plan their cutouts.

    Parameters
    ----------
    source
        Catalog and repository.
    select, cone
        As in `Catalog.from_any`.
    sort
        Columns by which rows are sorted, with ``-`` from the largest value on; missing values come last. By default the order of the
        catalog.
    limit
        Most targets, of those with pixels.

    Raises
    ------
    ConfigurationError
        If a setting is missing or does not fit.
    CatalogError, RepositoryError, CoverageError
        As `Catalog.from_any` and `build_plan`.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigurationError(f"limit={limit!r} must be a number of targets >= 1, or null for all")
    origin = _origin(source.catalog)
    repo = source.repo if source.repo is not None else origin.get("repo")
    if repo is None:
        name = source.catalog if isinstance(source.catalog, str | os.PathLike) else "the catalog"
        raise ConfigurationError(
            f"repo= is missing, and {name} does not say where the images are; give repo= and collections=, or the folder of an export"
        )
    if is_export(repo):
        if source.repo is None:
            bands, size = (_first(getattr(source, name), origin.get(name)) for name in ("bands", "size"))
            source = replace(
                source, catalog=None if is_export(source.catalog) else source.catalog, bands=bands, size=size
            )
        return _of_export(source, Path(repo), Subset(select, cone), sort, limit)
    if source.catalog is None:
        raise ConfigurationError("catalog= is missing; it may be left out only if repo= is the folder of an export")
    collections = source.collections if source.collections is not None else origin.get("collections")
    if collections is None:
        raise ConfigurationError("collections= is missing; give the collection of the images, such as collections=dp2")
    settings = {
        "collections": collections,
        "bands": _first(source.bands, origin.get("bands"), "ugrizy"),
        "size": _first(source.size, origin.get("size"), 64),
        "dataset_type": _first(source.dataset_type, origin.get("dataset_type"), "deep_coadd"),
        "read": source.read,
    }
    if (request := footprint_of(source.catalog)) is not None:
        drawn = build_plan(repo, request, columns=FOOTPRINT_COLUMNS, **settings)
        source = replace(source, catalog=replace(export_catalog(drawn), source=str(request)))
    catalog = _catalog(source, Subset(select, cone))
    row = _sorted_rows(catalog, sort)
    wanted = len(row) if limit is None else min(limit, len(row))
    tried = wanted
    while True:  # rows that no image covers do not count
        chosen = catalog.take(row[:tried])
        try:
            plan = build_plan(repo, chosen, **settings)
        except CoverageError:
            if tried == len(row):
                raise
        else:
            if len(plan) >= wanted or tried == len(row):
                break
        tried = min(8 * tried, len(row))
    target = np.argsort(plan.row, kind="stable")[:wanted]
    place = plan.row[target]
    lost, (number, texts) = plan.rejected, plan.rejected.texts()
    before = np.flatnonzero(lost.row < (place[-1] if len(target) == wanted else tried))
    ids = _listed(take_rows(lost.object_id, before))
    outside = [(identity, texts[k]) for identity, k in zip(ids, number[before].tolist(), strict=True)]
    return GalleryTargets(
        plan, target, row[place], _taken(chosen.columns, place), outside, len(catalog), catalog.source
    )


def _of_export(
    source: Source,
    folder: Path,
    subset: Subset,
    sort: str | Sequence[str],
    limit: int | None,
) -> GalleryTargets:
    """Find the targets of a gallery among those of an export."""
    bands, size = source.bands, source.size
    if source.catalog is None:
        names = tuple(ExportDescription.load(folder).catalog["columns"])
        plan = export_plan(folder, bands=bands, size=size, columns=names)
        whole = export_catalog(plan)
        own = {"object_id": whole.object_id, "ra": whole.ra, "dec": whole.dec, "row": np.arange(len(whole))}
        table = {**{name: v for name, v in whole.columns.items() if _is_scalar(v)}, **own}
        catalog = _catalog(Source(table, object_id="object_id"), subset, label=str(folder))
        numbers = np.asarray(catalog.columns.pop("row"), np.int64)
        order = np.argsort(np.concatenate([plan.row, plan.rejected.row]), kind="stable")
        target_of = np.where(order < len(plan), order, -1)[numbers]
    else:
        plan = export_plan(folder, bands=bands, size=size)
        catalog = _catalog(source, subset)
        numbers = np.arange(len(catalog))
        target_of = plan.targets_of(catalog.object_id)
    row = _sorted_rows(catalog, sort)
    chosen = catalog.take(row)
    found = target_of[row]
    there = np.flatnonzero(found >= 0)[:limit]
    if not len(there):
        raise CoverageError(f"the export {folder} holds none of the {len(row)} chosen targets; choose others")
    last = len(row) if limit is None or len(there) < limit else there[-1]
    gone = _listed(take_rows(chosen.object_id, np.flatnonzero(found[:last] < 0)))
    outside = [(identity, "not in the export, or without pixels there") for identity in gone]
    return GalleryTargets(
        plan,
        found[there],
        numbers[row[there]],
        _taken(chosen.columns, there),
        outside,
        len(catalog),
        catalog.source,
    )


def _origin(catalog: Any) -> Mapping[str, Any]:
    """Return what predictions, or an export, say of their images; nothing for any other catalog."""
    import pyarrow.parquet as pq

    metadata: Any = getattr(getattr(catalog, "schema", None), "metadata", None)
    if isinstance(catalog, str | os.PathLike):
        path = Path(catalog)
        if is_export(path):
            return {"repo": path}
        for folder in (path, path.parent):  # the HATS catalog in the folder, or the folder
            if path.is_dir() and (folder / DESCRIPTION).is_file():
                return _given(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")).get("images", {}))
        if path.suffix.lower() in {".parquet", ".pq", ".parq"} and path.is_file():
            metadata = pq.read_schema(path).metadata
    found = metadata.get(META.encode()) if isinstance(metadata, dict) else None
    return _given({} if found is None else json.loads(found))


def _given(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in values.items() if value}


def _catalog(source: Source, subset: Subset, label: str | None = None) -> Catalog:
    """Read a catalog with all of its columns that have one number, boolean or text a row."""
    if isinstance(source.catalog, Catalog):
        if subset.cone is not None:
            raise ConfigurationError("cone= is for tables; select the rows of a Catalog before")
        return source.catalog if subset.select is None else source.catalog.select(subset.select)
    table = open_table(source.catalog)
    position = find_position_columns(table, source.ra, source.dec)[0]
    identity = find_id_column(table) if source.object_id is None else require_column(table, source.object_id)
    needed = [*position, *([identity] if identity else [])]
    names = _readable(table, [name for name in table.names if name not in {"ra", "dec", "object_id"}], subset)
    found = read_rows(table, list(dict.fromkeys([*needed, *names])), subset, position, identity, source.unit)
    in_degrees = "deg" if table.position == position and found[position[0]].unit is None else None
    first, second = (found[name] for name in position)
    ra, dec = positions_in_degrees(first, second, position, source.unit or in_degrees, table.label)
    ids: Ids = np.arange(len(ra)) if identity is None else check_ids(found[identity], identity, table.label)
    columns = {name: _filled(found[name]) for name in names}
    columns = {name: values for name, values in columns.items() if _is_scalar(values)}
    return Catalog(ids, ra, dec, columns, label or table.label)


def _readable(table: OpenTable, names: list[str], subset: Subset) -> list[str]:
    """Return the columns that can be read: dates, structures and lists of various lengths cannot."""
    first = next(iter(table.divided(names, subset)), table)
    try:
        first.read(names)
    except CatalogError:
        return [name for name in names if _can_be_read(first, name)]
    return names


def _can_be_read(table: OpenTable, name: str) -> bool:
    try:
        table.read([name])
    except CatalogError:
        return False
    return True


def _filled(column: Column) -> Values:
    """Return the values of a column: missing numbers are NaN, missing texts are empty."""
    values, null = column.values, column.null
    if null is None or (isinstance(values, np.ndarray) and values.dtype.kind == "f"):
        return values
    missing = null.tolist()
    if isinstance(values, list):
        return ["" if gone else text for text, gone in zip(values, missing, strict=True)]
    if values.dtype.kind != "b" and len(values) and np.abs(values[~null]).max(initial=0) > _EXACT:
        return ["" if gone else str(number) for number, gone in zip(values.tolist(), missing, strict=True)]
    return np.where(null, np.nan, values.astype(np.float64))


def _is_scalar(values: Values) -> bool:
    return isinstance(values, list) or np.ndim(values) == 1


def _sorted_rows(catalog: Catalog, sort: str | Sequence[str]) -> NDArray[np.int64]:
    """Return the rows of a catalog in the order of some columns; equal ones in the order of the catalog."""
    order = np.arange(len(catalog))
    known = {"object_id": catalog.object_id, "ra": catalog.ra, "dec": catalog.dec, **catalog.columns}
    for key in reversed([sort] if isinstance(sort, str) else list(sort)):
        name = key.removeprefix("-")
        if name not in known:
            raise ConfigurationError(f"sort={key!r}: the catalog has no column {name!r}; it has {', '.join(known)}")
        values = np.asarray(take_rows(known[name], order))
        _, rank = np.unique(values, return_inverse=True, equal_nan=False)
        rank = np.asarray(-rank if key.startswith("-") else rank)
        missing = np.isnan(values) if values.dtype.kind == "f" else values == "" if values.dtype.kind == "U" else False
        rank[missing] = len(values)
        order = order[np.argsort(rank, kind="stable")]
    return order


def _taken(columns: Mapping[str, Values], rows: NDArray[np.int64]) -> dict[str, Values]:
    return {name: take_rows(values, rows) for name, values in columns.items() if _is_scalar(values)}


def _listed(ids: Ids) -> list[Any]:
    return ids if isinstance(ids, list) else ids.tolist()


def _first(*values: Any) -> Any:
    """Return the first value that is given, or None."""
    return next((value for value in values if value is not None), None)
