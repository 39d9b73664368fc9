"""Opens HATS catalogs and catalogs of LSDB: only schema and list of partitions are read before rows are asked for.

The rows come in the order of the partitions along ``_healpix_29``, and in each partition as its file has them. ``hats`` and
``lsdb`` take seconds to import, so they are imported only when such a catalog is opened.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import CatalogError, DependencyError
from .arrow import table_from_arrow, table_from_pandas
from .columns import Column, OpenTable, joined_column
from .subset import Subset

__all__ = ["hats_cells", "hats_path", "is_hats", "main_catalog", "table_from_hats", "table_from_lsdb", "translated"]

_HEALPIX_DEGREES = 58.6
"""Size of a HEALPix cell of order 0 (Gorski et al. 2005, ApJ 622, 759), degrees."""


def is_hats(folder: Path) -> bool:
    """Return whether a local folder says that it is a HATS catalog or a collection."""
    old = (folder / "properties").is_file() and (folder / "dataset").is_dir()
    return old or any((folder / name).is_file() for name in ("hats.properties", "collection.properties"))


def table_from_hats(source: Any) -> OpenTable:
    """Open a HATS catalog, or the main catalog of a collection: a path, a URL, or what ``hats.read_hats`` returns.

    Raises
    ------
    CatalogError
        If there is no HATS catalog, or it is damaged.
    DependencyError
        If a package is missing that this kind of catalog or storage needs.
    """
    label, catalog = main_catalog(source)
    return _large_table(label, catalog.schema.names, catalog.catalog_info, partial(_partitions, label, catalog))


def main_catalog(source: Any) -> tuple[str, Any]:
    """Return the name for messages and the main catalog of a HATS catalog or collection; the errors of `table_from_hats` apply."""
    label = str(source) if isinstance(source, str | os.PathLike) or hasattr(source, "protocol") else ""
    hats = _package("hats")
    if label:
        with translated(label, "check the path; a HATS catalog has a file hats.properties or collection.properties"):
            source = hats.read_hats(source, read_moc=False)
    catalog = getattr(source, "main_catalog", source)
    label = label or str(catalog.catalog_path)
    kind = str(getattr(catalog.catalog_info, "catalog_type", "") or "")
    if kind not in {"object", "source"}:
        raise CatalogError(
            f"{label}: this HATS catalog is of type {kind!r}, not a table of objects or sources; give its main catalog."
        )
    if catalog.schema is None:
        raise CatalogError(
            f"{label}: the HATS catalog has neither dataset/_common_metadata nor dataset/_metadata, which hold its columns;"
            " copy the catalog again."
        )
    return label, catalog


def table_from_lsdb(catalog: Any) -> OpenTable:
    """Open a catalog of LSDB; its partitions are computed one after the other."""
    structure = catalog.hc_structure
    label = f"lsdb catalog {catalog.name}"
    return _large_table(label, list(catalog.columns), structure.catalog_info, partial(_computed, label, catalog))


def _large_table(label: str, names: Sequence[str], info: Any, parts: Any) -> OpenTable:
    given = info.ra_column, info.dec_column

    def read(wanted: Sequence[str]) -> dict[str, Column]:
        found = [(part.label, part.read(wanted)) for part in parts(wanted, Subset())]
        return {name: joined_column(name, [(where, columns[name]) for where, columns in found]) for name in wanted}

    position = given if set(given) <= set(names) else None
    return OpenTable(label, tuple(names), read, parts, info.total_rows, position)


def _partitions(label: str, catalog: Any, names: Sequence[str], subset: Subset) -> Iterator[OpenTable]:
    """Yield the row groups of the partition files that can hold rows of a subset."""
    info = catalog.catalog_info
    cells = _cone_cells(subset)
    whole = info.npix_suffix != "/"  # otherwise each partition is a folder of files
    for pixel in hats_cells(catalog, subset):
        path = hats_path(catalog, pixel)
        where = f"{label}: partition {str(path)[len(str(catalog.catalog_base_dir)) :].lstrip('/')}"
        remedy = "its list of partitions names this file; copy the catalog again, or repair it with hats-import"
        with translated(where, remedy):
            files = [path] if whole else sorted(file for file in path.iterdir() if file.suffix == ".parquet")
        for file in files:
            yield from _row_groups(file, where, remedy, names, subset, _ranges(cells, info))


def hats_cells(catalog: Any, subset: Subset) -> list[Any]:
    """Return the ``HealpixPixel`` of the partitions of a catalog that can hold rows of a subset, along the sky."""
    from hats.pixel_math.healpix_pixel_function import sort_pixels

    cells = _cone_cells(subset)
    return list(sort_pixels((catalog if cells is None else catalog.filter_by_moc(cells)).get_healpix_pixels()))


def hats_path(catalog: Any, pixel: Any) -> Any:
    """Return the file of a partition, or its folder of files, as ``UPath``."""
    from hats.io.paths import pixel_catalog_file

    return pixel_catalog_file(catalog.catalog_base_dir, pixel, npix_suffix=catalog.catalog_info.npix_suffix)


def _row_groups(
    file: Any, where: str, remedy: str, names: Sequence[str], subset: Subset, ranges: "tuple[str, Any] | None"
) -> Iterator[OpenTable]:
    from hats.io.file_io import read_parquet_dataset

    def read(group: Any, wanted: Sequence[str]) -> dict[str, Column]:
        with translated(where, remedy):
            table = group.to_table(columns=list(wanted))
        return table_from_arrow(table, where).read(wanted)

    with translated(where, remedy):
        (fragment,) = read_parquet_dataset(file)[1].get_fragments()
        held = tuple(fragment.physical_schema.names)
        if lacking := [name for name in names if name not in held]:
            raise CatalogError(
                f"{where} has no column {lacking[0]!r}, which the schema of the catalog names; {remedy}."
            )
        groups = fragment.row_groups
    for group in groups:
        if subset.may_match(group.statistics or {}) and _overlaps(ranges, group.statistics or {}):
            yield OpenTable(where, held, partial(read, fragment.subset(row_group_ids=[group.id])))


def _cone_cells(subset: Subset) -> Any:
    """Return the HEALPix cells (``mocpy.MOC``) that cover the cone of a subset, about a quarter of its radius in size."""
    if subset.cone is None:
        return None
    from hats.pixel_math.region_to_moc import cone_to_moc

    ra, dec, radius = subset.cone
    order = min(29, max(0, math.ceil(math.log2(4 * _HEALPIX_DEGREES / radius))))
    return cone_to_moc(ra % 360.0, dec, radius * 3600, order)


def _ranges(cells: Any, info: Any) -> "tuple[str, Any] | None":
    """Return the HEALPix column and the ranges ``(M, 2)`` of it in which rows can lie, ends excluded."""
    if cells is None or not info.healpix_column:
        return None
    order = 29 if info.healpix_order is None else int(info.healpix_order)
    ranges = (cells if cells.max_order <= order else cells.degrade_to_order(order)).to_depth29_ranges
    return info.healpix_column, ranges >> np.uint64(2 * (29 - order))


def _overlaps(ranges: "tuple[str, Any] | None", statistics: Any) -> bool:
    if ranges is None or ranges[0] not in statistics:
        return True
    first, last = (np.uint64(statistics[ranges[0]][name]) for name in ("min", "max"))
    low, high = ranges[1].T
    return bool(((low <= last) & (high > first)).any())


def _computed(label: str, catalog: Any, names: Sequence[str], subset: Subset) -> Iterator[OpenTable]:
    """Yield the partitions of a catalog of LSDB that can hold rows of a subset."""
    if subset.cone is not None:
        ra, dec, radius = subset.cone
        catalog = catalog.cone_search(ra % 360.0, dec, radius * 3600, fine=False)
    chosen = catalog[list(dict.fromkeys(names))]
    for pixel, partition in zip(chosen.get_ordered_healpix_pixels(), chosen.to_delayed(), strict=True):
        where = f"{label}: partition Norder={pixel.order}, Npix={pixel.pixel}"
        compute = cache(partial(_compute, partition, where))  # the columns are read in two steps
        yield OpenTable(where, tuple(names), partial(_read_computed, compute))


def _compute(partition: Any, where: str) -> OpenTable:
    with translated(where, "check the files of the catalog"):
        return table_from_pandas(partition.compute(), where)


def _read_computed(compute: Callable[[], OpenTable], names: Sequence[str]) -> dict[str, Column]:
    return compute().read(names)


@contextmanager
def translated(where: str, remedy: str) -> Iterator[None]:
    """Translate what hats, fsspec and pyarrow raise for a catalog that is missing or damaged.

    Raises
    ------
    CatalogError
        With ``where`` and ``remedy``.
    DependencyError
        If the storage needs a package that is not installed, such as s3fs.
    """
    from aiohttp import ClientError

    try:
        yield
    except ImportError as error:
        raise DependencyError(
            f"{where}: this storage needs a package that is not installed: {error}; pip install s3fs for s3://,"
            " huggingface_hub for hf://"
        ) from error
    except FileNotFoundError as error:
        raise CatalogError(f"{where} does not exist: {error}; {remedy}.") from error
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError, pa.ArrowException, ClientError) as error:
        if isinstance(error, CatalogError):
            raise
        raise CatalogError(f"{where} cannot be read: {type(error).__name__}: {error}; {remedy}.") from error


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise DependencyError(
            f"reading HATS catalogs needs a package that is not installed ({error}): pip install 'lsstcutouts[bulk]'"
        ) from error
