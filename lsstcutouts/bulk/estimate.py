"""What an export will take: rows, bytes on the disk and time, from some of its partitions."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..catalog.healpix import Cell
from ..errors import ConfigurationError, EmptyCatalogError, MissingBandError, QualityError, ReadError
from ..plan.cutout_plan import CutoutPlan
from ..read.reader import CutoutReader
from ..source.amounts import shown_bytes
from .export_rows import row_bytes
from .partition_export import PartitionExport
from .planners import open_planner, process_cache

__all__ = ["ExportEstimate", "estimate_export"]

_PARTITIONS = 12
"""Partitions that are looked at."""

_ROWS = 2000
"""Rows of each that are planned."""

_READ = 256
"""Targets that are read to measure the rate."""


@dataclass(frozen=True)
class ExportEstimate:
    """What the partitions that are left will take.

    Attributes
    ----------
    partitions, sampled
        Partitions that are left, and how many of them were looked at.
    rows, covered
        Rows of the catalog in them, and those with pixels, about.
    bytes, free
        Bytes that will be written, about, and that are free on the disk.
    rate
        Cutouts a second that one process with its threads reads; 0 if no row that was looked at is covered.
    """

    partitions: int
    sampled: int
    rows: int
    covered: int
    bytes: int
    free: int
    rate: float

    def seconds(self, workers: int = 1) -> float:
        """Return how long that takes."""
        return self.covered / self.rate / workers if self.rate else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**asdict(self), "seconds": self.seconds()}

    def check_disk(self, folder: Path) -> None:
        """Raise `ConfigurationError` if the disk is too small."""
        if self.bytes > self.free:
            raise ConfigurationError(
                f"output={folder}: the export needs about {shown_bytes(self.bytes)}, but only {shown_bytes(self.free)} of the disk"
                " are free; give a folder on a larger disk, fewer planes or bands, dtype=float16, or a part of the catalog with"
                " select= and cone="
            )


def estimate_export(job: PartitionExport, catalog: Any, cells: Sequence[Cell], rows: int | None) -> ExportEstimate:
    """Plan some rows of some partitions, and read a few cutouts.

    Parameters
    ----------
    job
        The export.
    catalog
        Its `LargeCatalog`.
    cells
        Partitions that are left.
    rows
        Rows of the whole catalog, if they are known.
    """
    chosen = [cells[at] for at in np.unique(np.linspace(0, len(cells) - 1, _PARTITIONS).astype(int))] if cells else []
    bare = replace(catalog, columns=())
    planner = open_planner(job.description, job.read)
    all_rows, kept, planned, covered, rate = list[int](), 0, 0, 0, 0.0
    for cell in chosen:
        partition = catalog.partition(cell)
        try:
            found = bare.read(partition)
        except EmptyCatalogError:
            all_rows.append(0)
            continue
        all_rows.append(len(found))
        some = np.unique(np.linspace(0, len(found) - 1, _ROWS).astype(int))
        plan = planner.plan(found.catalog.take(some), may_be_empty=True)
        kept, planned, covered = kept + len(found), planned + len(some), covered + len(plan)
        if not rate and len(plan):
            rate = _rate(job, plan)
    share = covered / planned if planned else 0.0
    of_all = float(np.mean(all_rows)) * len(cells) if all_rows else 0.0
    if rows is not None and not catalog.subset:
        of_all = rows * len(cells) / max(1, len(catalog))
    copied = 20 * len(catalog.columns)
    bytes_of = row_bytes(job.description), row_bytes(replace(job.description, planes=()))
    needed = of_all * (share * bytes_of[0] + (1 - share) * bytes_of[1] + copied)
    there = next(path for path in (Path(job.folder).absolute(), *Path(job.folder).absolute().parents) if path.is_dir())
    return ExportEstimate(
        partitions=len(cells),
        sampled=len(chosen),
        rows=round(of_all),
        covered=round(of_all * share),
        bytes=round(needed),
        free=shutil.disk_usage(there).free,
        rate=rate,
    )


def _rate(job: PartitionExport, plan: CutoutPlan) -> float:
    """Return cutouts a second, measured after a first batch; 0 if they cannot be read."""
    cache, files = process_cache(job.cache_bytes, job.workers, job.run_id)
    reader = CutoutReader(plan, job.options(), cache=cache, files=files)
    targets = np.arange(min(len(plan), 2 * _READ))
    warm, timed = targets[: len(targets) // 2], targets[len(targets) // 2 :]
    try:
        if len(warm):
            reader.read(warm)
        start = perf_counter()
        reader.read(timed)
        return len(timed) / max(perf_counter() - start, 1e-6)
    except (ReadError, MissingBandError, QualityError):  # its partition fails later, and is listed
        return 0.0
    finally:
        reader.close()
