"""The files that make the partitions of an output a HATS catalog in a collection."""

import os
import shutil
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..catalog.healpix import Cell
from ..errors import WriteError
from .finished import OutputFile, PartitionResult

__all__ = ["partition_path", "write_hats"]

_ASIDE = ".hats-"
"""Begin of the names of folders in which the files are written before they are put in place."""

_MOST_CHUNKS = 200_000
"""Column chunks (row groups times columns) up to which the footers of all files are copied into ``_metadata`` and the statistics
of partitions: of a million chunks, hats takes GB of memory, and minutes, to write them, and readers as much."""


def partition_path(name: str, cell: Cell) -> str:
    """Return the path of a partition's file in the folder of a collection, whose catalog has this name."""
    return f"{name}/dataset/Norder={cell.order}/Dir={cell.pixel // 10000 * 10000}/Npix={cell.pixel}.parquet"


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

    Raises
    ------
    WriteError
        If they cannot be written.
    """
    from hats.catalog import PartitionInfo
    from hats.catalog.dataset.collection_properties import CollectionProperties
    from hats.catalog.dataset.table_properties import TableProperties
    from hats.io.parquet_metadata import write_parquet_metadata
    from hats.pixel_math import HealpixPixel

    root = Path(folder) / name
    files = [file for result in results for file in result.files]
    few = _chunk_count(Path(folder), files) <= _MOST_CHUNKS
    aside = Path(mkdtemp(prefix=_ASIDE, dir=folder))
    try:
        _remove_others(Path(folder), root, {Path(folder) / file.path for file in files})
        write_parquet_metadata(
            root,
            output_path=aside,
            create_metadata=few,
            create_per_partition_stats=few and not _has_unsigned(Path(folder) / files[0].path),
        )
        _leave_out_planes(aside / "per_partition_statistics.parquet")
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
    except OSError as error:
        # Another process may have finished the same export, and removed the files of this one.
        if not (isinstance(error, FileNotFoundError) and (Path(folder) / "collection.properties").exists()):
            raise WriteError(
                f"{folder} cannot be made a HATS catalog: {error}; check the free disk space, and give the same command again"
            ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for left in Path(folder).glob(f"{_ASIDE}*"):
        shutil.rmtree(left, ignore_errors=True)


def _chunk_count(root: Path, files: Sequence[OutputFile]) -> int:
    """Return the number of column chunks of all files, about: from the rows of the first row group."""
    first = pq.read_metadata(root / files[0].path)
    rows = max(1, first.row_group(0).num_rows)
    return int(first.num_columns * sum(-(-file.rows // rows) for file in files))


def _has_unsigned(path: Path) -> bool:
    """Return whether a file has columns of which hats 0.11 cannot write statistics: numbers above 2**63."""
    return any(pa.types.is_uint64(field.type) for field in pq.read_schema(path))


def _leave_out_planes(path: Path) -> None:
    """Remove pixels from the statistics: they have none, and hats 0.11 fails on lists of lists when it reads them."""
    if path.exists():
        table = pq.read_table(path)
        pq.write_table(table.select([name for name in table.column_names if name.count(".list.element") < 2]), path)


def _remove_others(folder: Path, root: Path, files: AbstractSet[Path]) -> None:
    """Remove what processes left that were killed: incomplete files, and partitions that were then divided otherwise."""
    for path in (root / "dataset").rglob("*.parquet"):
        if path.name.startswith("Npix=") and path not in files:
            path.unlink(missing_ok=True)
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)
