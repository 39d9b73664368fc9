"""What the partitions of a process share: the open repository with its planner, and the cache of tiles."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Any, Protocol

from ..catalog.footprint import FOOTPRINT_COLUMNS, footprint_of
from ..catalog.partitions import PartitionRows
from ..catalog.targets import Catalog
from ..plan.arguments import AngularSize
from ..plan.cutout_plan import CutoutPlan
from ..plan.drawing import drawn_catalog
from ..plan.planner import Planner
from ..plan.read_options import ReadOptions
from ..plan.repository import Repository
from ..read.cache.tile_cache import TileCache
from ..read.open_files import OpenFiles
from ..sky.geometry import YX

__all__ = [
    "Images",
    "close_planner",
    "fingerprint_of",
    "numbered_plan",
    "open_planner",
    "plan_rows",
    "process_cache",
    "with_drawn_positions",
]

_MOST_PLANNERS = 2
"""Planners that stay open in a process: one run has two, with a size in arcseconds and in pixels."""

_LOCK, _PLANNERS_LOCK = Lock(), Lock()

_PLANNERS: dict[tuple[Any, ...], Planner] = {}
"""The open planners of this process, oldest first: a Butler takes a second to open."""


class Images(Protocol):
    """Which images of a repository are cut, and how large: what a description of an export or a prediction says."""

    @property
    def repo(self) -> str:
        """Path, URL or label."""
        ...

    @property
    def collections(self) -> tuple[str, ...]:
        """Collections, in the order in which they are searched."""
        ...

    @property
    def dataset_type(self) -> str:
        """Dataset type of the coadds."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the ``B`` channels."""
        ...

    @property
    def size(self) -> YX[int]:
        """Rows and columns of a cutout, pixels."""
        ...


def open_planner(
    images: Images, read: ReadOptions, size: YX[int] | AngularSize | None = None, run_id: str = ""
) -> Planner:
    """Return the planner of a repository, which stays open in this process until others are opened, or `close_planner`.

    Parameters
    ----------
    images, read
        Which repository, and which of its files.
    size
        Instead of that of ``images``.
    run_id
        Differs for each run: a worker that outlives it opens the repository again.
    """
    one = images
    wanted = one.size if size is None else size
    key = (
        *(os.getpid(), run_id, one.repo, one.collections, one.dataset_type, one.bands, wanted),
        *(read.tract, read.skymap),
    )
    with _PLANNERS_LOCK:
        if key not in _PLANNERS:
            close_planner(keep=_MOST_PLANNERS - 1)
            repository = Repository(one.repo, one.collections, one.dataset_type, read.skymap)
            _PLANNERS[key] = Planner(repository, one.bands, wanted, read.tract)
        return _PLANNERS[key]


def close_planner(keep: int = 0) -> None:
    """Close the repositories of `open_planner`, but the ``keep`` newest."""
    while len(_PLANNERS) > keep:
        key = next(iter(_PLANNERS))
        planner = _PLANNERS.pop(key)
        if key[0] == os.getpid():  # after a fork, the connection belongs to the parent
            planner.repository.close()


def plan_rows(images: Images, read: ReadOptions, catalog: Catalog, run_id: str = "") -> CutoutPlan:
    """Return the plan of the rows of a partition, which may be empty."""
    with _LOCK:  # the Butler is asked by one thread at a time
        return open_planner(images, read, run_id=run_id).plan(catalog, may_be_empty=True, grid=read.grid)


def with_drawn_positions(catalog: Any, planner: Planner, columns: Sequence[str] | None) -> Any:
    """Return the catalog of the positions that a footprint asks for; any other catalog as it is.

    Parameters
    ----------
    catalog
        Of any kind.
    planner
        Of the repository.
    columns
        Of `FOOTPRINT_COLUMNS`, those that the positions get; all of them by default.
    """
    if (request := footprint_of(catalog)) is None:
        return catalog
    return drawn_catalog(planner, Catalog.from_any(request, columns=FOOTPRINT_COLUMNS if columns is None else columns))


def numbered_plan(plan: CutoutPlan, rows: PartitionRows) -> CutoutPlan:
    """Return a plan of the rows of a partition with the numbers that its catalog gives them."""
    return replace(plan, row=rows.row[plan.row], rejected=replace(plan.rejected, row=rows.row[plan.rejected.row]))


def fingerprint_of(plan: CutoutPlan) -> str:
    """Return the SHA-256 of a plan and of the sizes of its files: images that are made again may have the same UUIDs."""
    return hashlib.sha256(f"{plan.fingerprint()} {plan.files.size}".encode()).hexdigest()


def process_cache(cache_bytes: float | str, workers: int, run_id: str = "") -> tuple[TileCache, OpenFiles]:
    """Return the cache of tiles and the indices of files of this process and run: images made again may have the same UUIDs."""
    return _cache((os.getpid(), run_id), cache_bytes, workers)


@lru_cache(maxsize=1)
def _cache(_process: tuple[int, str], cache_bytes: float | str, workers: int) -> tuple[TileCache, OpenFiles]:
    cache = TileCache(cache_bytes)
    cache.share_among(workers)
    return cache, OpenFiles(cache)  # neighbouring partitions lie on the same files
