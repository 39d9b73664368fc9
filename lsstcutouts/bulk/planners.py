"""What the partitions of a process share: the open repository with its planner, and the cache of tiles."""

import os
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Any, Protocol

from ..catalog.partitions import PartitionRows
from ..catalog.targets import Catalog
from ..plan.arguments import AngularSize
from ..plan.cutout_plan import CutoutPlan
from ..plan.planner import Planner
from ..plan.read_options import ReadOptions
from ..plan.repository import Repository
from ..read.cache.tile_cache import TileCache
from ..sky.geometry import YX

__all__ = ["Images", "close_planner", "numbered_plan", "open_planner", "plan_rows", "process_cache"]

_LOCK = Lock()

_PLANNERS: dict[tuple[Any, ...], Planner] = {}
"""The open planner of this process: a Butler takes a second to open."""


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


def open_planner(images: Images, read: ReadOptions, size: YX[int] | AngularSize | None = None) -> Planner:
    """Return the planner of a repository, which stays open in this process until another one is opened, or `close_planner`.

    Parameters
    ----------
    images, read
        Which repository, and which of its files.
    size
        Instead of that of ``images``.
    """
    one = images
    wanted = one.size if size is None else size
    key = os.getpid(), one.repo, one.collections, one.dataset_type, one.bands, wanted, read.tract, read.skymap
    if key not in _PLANNERS:
        close_planner()
        repository = Repository(one.repo, one.collections, one.dataset_type, read.skymap)
        _PLANNERS[key] = Planner(repository, one.bands, wanted, read.tract)
    return _PLANNERS[key]


def close_planner() -> None:
    """Close the repository of `open_planner`."""
    while _PLANNERS:
        key, planner = _PLANNERS.popitem()
        if key[0] == os.getpid():  # after a fork, the connection belongs to the parent
            planner.repository.close()


def plan_rows(images: Images, read: ReadOptions, catalog: Catalog) -> CutoutPlan:
    """Return the plan of the rows of a partition, which may be empty."""
    with _LOCK:  # the Butler is asked by one thread at a time
        return open_planner(images, read).plan(catalog, may_be_empty=True)


def numbered_plan(plan: CutoutPlan, rows: PartitionRows) -> CutoutPlan:
    """Return a plan of the rows of a partition with the numbers that its catalog gives them."""
    return replace(plan, row=rows.row[plan.row], rejected=replace(plan.rejected, row=rows.row[plan.rejected.row]))


def process_cache(cache_bytes: float | str, workers: int) -> TileCache:
    """Return the cache of tiles of this process."""
    return _cache(os.getpid(), cache_bytes, workers)


@lru_cache(maxsize=1)
def _cache(_process: int, cache_bytes: float | str, workers: int) -> TileCache:
    cache = TileCache(cache_bytes)
    cache.share_among(workers)
    return cache
