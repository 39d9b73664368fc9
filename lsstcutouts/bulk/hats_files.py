"""The files that make the partitions of an output a HATS catalog in a collection."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from ..catalog.healpix import Cell
from .finished import PartitionResult

__all__ = ["partition_path", "write_hats"]

_METADATA_FILES = 500
"""Files up to which the footers of all are copied into ``_metadata``: of very many, it does not fit in the memory of readers."""


def partition_path(cell: Cell) -> str:
    """Return the path of a partition's file in the folder of its HATS catalog."""
    return f"dataset/Norder={cell.order}/Dir={cell.pixel // 10000 * 10000}/Npix={cell.pixel}.parquet"


def write_hats(
    folder: str | os.PathLike[str], name: str, results: Sequence[PartitionResult], about: Mapping[str, Any]
) -> None:
    """Write properties, list of partitions, schema and statistics of finished partitions.

    Parameters
    ----------
    folder
        Of the collection.
    name
        Of its catalog, which is the folder of this name.
    results
        Of all partitions.
    about
        Further properties, of text.
    """
    from hats.catalog import PartitionInfo
    from hats.catalog.dataset.collection_properties import CollectionProperties
    from hats.catalog.dataset.table_properties import TableProperties
    from hats.io.parquet_metadata import write_parquet_metadata
    from hats.pixel_math import HealpixPixel

    root = Path(folder) / name
    files = [file for result in results for file in result.files]
    aside = Path(mkdtemp(prefix=".hats-", dir=folder))
    try:
        write_parquet_metadata(
            root,
            output_path=aside,
            create_metadata=len(files) <= _METADATA_FILES,
            create_per_partition_stats=len(files) <= _METADATA_FILES,
        )
        PartitionInfo.from_healpix([HealpixPixel(file.order, file.pixel) for file in files]).write_to_file(
            aside / "partition_info.csv"
        )
        order = max((file.order for file in files), default=0)
        properties = TableProperties(
            catalog_name=name,
            catalog_type="object",
            total_rows=sum(file.rows for file in files),
            ra_column="ra",
            dec_column="dec",
            healpix_column="_healpix_29",
            healpix_order=29,
            hats_max_rows=max((file.rows for file in files), default=0),
            moc_sky_fraction=float(np.sum([1 / (12 * 4**file.order) for file in files])),
            hats_order=order,
            **TableProperties.new_provenance_dict(root, builder="lsstcutouts"),
            **about,
        )
        properties.to_properties_file(aside)
        for path in sorted(path for path in aside.rglob("*") if path.is_file()):
            target = root / path.relative_to(aside)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        CollectionProperties(name=Path(folder).resolve().name, hats_primary_table_url=name).to_properties_file(aside)
        (aside / "collection.properties").replace(Path(folder) / "collection.properties")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
