"""HATS catalogs written partition by partition: of any order and any number of rows, in a second."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hats.catalog import PartitionInfo
from hats.catalog.dataset.collection_properties import CollectionProperties
from hats.catalog.dataset.table_properties import TableProperties
from hats.pixel_math import HealpixPixel

from lsstcutouts.catalog.healpix import Cell, divide, healpix_of

__all__ = ["divided", "write_catalog"]

HEALPIX = "_healpix_29"


def divided(table: pa.Table, rows: int) -> Iterator[tuple[Cell, pa.Table]]:
    """Yield the cells that divide a table with ``ra`` and ``dec`` into partitions of at most so many rows."""
    healpix = healpix_of(table["ra"].to_numpy(), table["dec"].to_numpy())
    order = np.argsort(healpix, kind="stable")
    healpix, table = healpix[order], table.take(pa.array(order)).add_column(0, HEALPIX, pa.array(healpix[order]))
    for cell in divide(healpix, np.ones(len(healpix), np.int64), rows):
        low, high = np.searchsorted(healpix, cell.bounds)
        yield cell, table.slice(int(low), int(high - low))


def write_catalog(folder: Path, parts: Iterable[tuple[Cell, pa.Table]], *, group_rows: int | None = None) -> Path:
    """Write a HATS collection with one catalog, ``objects``; the tables have ``ra``, ``dec`` and ``_healpix_29``."""
    root, cells, counts = folder / "objects", list[Cell](), list[int]()
    for cell, table in parts:
        path = root / f"dataset/Norder={cell.order}/Dir={cell.pixel // 10000 * 10000}/Npix={cell.pixel}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=group_rows)
        if not cells:
            pq.write_metadata(table.schema, root / "dataset/_common_metadata")
        cells.append(cell)
        counts.append(len(table))
    PartitionInfo.from_healpix([HealpixPixel(cell.order, cell.pixel) for cell in cells]).write_to_file(
        root / "partition_info.csv"
    )
    TableProperties(
        catalog_name="objects",
        catalog_type="object",
        total_rows=sum(counts),
        ra_column="ra",
        dec_column="dec",
        healpix_column=HEALPIX,
        healpix_order=29,
        hats_max_rows=max(counts),
    ).to_properties_file(root)
    CollectionProperties(name=folder.name, hats_primary_table_url="objects").to_properties_file(folder)
    return folder
