"""The data access layer for people: positions in, arrays out."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .butler import Repository, as_names
from .cache import CacheStats, TileCache, available_memory
from .catalog import Catalog
from .cutout import Batch, CutoutReader, OpenFiles, checked_planes, checked_targets, default_threads
from .errors import ConfigurationError, LsstCutoutsError, MemoryBudgetError
from .plan import CutoutPlan
from .planner import Planner, parse_bands, parse_size

__all__ = ["LsstDataFetcher"]


class LsstDataFetcher:
    """Fetches synchronised multi-band cutouts from a Butler repository.

    Tiles are decoded by a pool of threads and kept in a cache; located patches are remembered, absences too,
    so that a second `fetch` of the same area asks the Butler nothing. Use it as a context manager. The
    constructor reads nothing.

    Parameters
    ----------
    repo
        Path, label or URL of the repository, or an open Butler.
    collections
        Collection name or names, searched in order.
    bands
        One-letter bands as one string (``"gri"``) or a list of names; the channel order.
    size
        Pixels: one number, or ``(height, width)``.
    dataset_type, skymap
        What to read; the skymap defaults to the one that the coadds have.
    planes
        Any of ``"image"``, ``"variance"``, ``"mask"``, ``"valid"``.
    mask_planes
        Names of the mask planes for ``"mask"``, such as ``("SATURATED", "NO_DATA")``; bit ``i`` of the result is
        the ``i``-th name, in every file.
    threads
        Size of the pool; by default the cores that this process may use, at most 8.
    cache_bytes
        Budget of the tile cache, as `TileCache` takes it.

    Examples
    --------
    >>> with LsstDataFetcher("dp2", collections="dp2", bands="gri", size=64) as fetcher:
    ...     batch = fetcher.fetch(ra=[53.1, 53.2], dec=[-28.1, -28.0])
    >>> batch["image"].shape
    (2, 3, 64, 64)
    """

    def __init__(
        self,
        repo: str | os.PathLike[str] | Any,
        *,
        collections: str | Sequence[str],
        bands: str | Iterable[str],
        size: int | Sequence[int],
        dataset_type: str = "deep_coadd",
        skymap: str | None = None,
        planes: Sequence[str] = ("image",),
        mask_planes: Sequence[str] = (),
        threads: int | None = None,
        cache_bytes: float | str = "auto",
    ) -> None:
        self.repo = repo
        self.collections = as_names(collections)
        self.bands = parse_bands(bands)
        self.size = parse_size(size)
        self.dataset_type, self.skymap = dataset_type, skymap
        self.planes, self.mask_planes = checked_planes(planes, mask_planes), tuple(mask_planes)
        if threads is not None and threads < 1:
            raise ConfigurationError(f"threads must be at least 1, got {threads}")
        self.threads = threads or default_threads()
        self.cache = TileCache(cache_bytes)
        self._start()

    def _start(self) -> None:
        """Begin without threads, files and answers, as after the constructor, a fork or unpickling."""
        self._process = os.getpid()
        self._files = OpenFiles()
        self._lock = Lock()  # a Butler is asked by one thread at a time
        self._planner: Planner | None = None
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self.__dict__.update(settings)
        self._start()

    def _in_this_process(self) -> None:
        """Leave threads, lock and Butler to the process that a fork copied them from: here they do not work."""
        if self._process != os.getpid():
            self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and close files and repository; a later `fetch` opens them again."""
        self._in_this_process()
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)
                self._pool = None
            if self._planner is not None:
                self._planner.repository.close()
                self._planner = None
        self._files.close()

    def fetch(self, ra: ArrayLike, dec: ArrayLike, *, object_id: ArrayLike | None = None) -> Batch:
        """Return cutouts around positions, in their order.

        Parameters
        ----------
        ra, dec
            Degrees ICRS: numbers or ``(N,)``.
        object_id
            ``(N,)`` unique integers; by default 0 to N - 1.

        Returns
        -------
        dict
            ``image`` ``(N, B, Y, X)`` float32 in the file's unit (nJy), ``band_present`` ``(N, B)`` and the rest of
            the batch. A position outside the coverage gives zeros with ``band_present`` all False and
            tract and patch -1.

        Raises
        ------
        CoverageError
            If no position is covered.
        CatalogError, RepositoryError, ReadError
            If the positions, the repository or a file cannot be used.
        """
        ra, dec = np.atleast_1d(np.asarray(ra, np.float64)), np.atleast_1d(np.asarray(dec, np.float64))
        ids = None if object_id is None else np.atleast_1d(np.asarray(object_id))
        plan = self.plan(Catalog.from_arrays(ra, dec, ids))
        return _with_rejected(self.fetch_plan(plan), plan)

    def plan(self, catalog: object, columns: Sequence[str] = ()) -> CutoutPlan:
        """Return the plan of a catalog, asking the Butler only for patches that are not known yet."""
        targets = Catalog.from_any(catalog, columns=columns)
        self._in_this_process()
        with self._lock:
            if self._planner is None:
                self._planner = self._new_planner()
            return self._planner.plan(targets)

    def _new_planner(self) -> Planner:
        repository = Repository(self.repo, self.collections, self.dataset_type, self.skymap)
        try:
            return Planner(repository, self.bands, self.size)
        except LsstCutoutsError:
            repository.close()
            raise

    def fetch_plan(self, plan: CutoutPlan, rows: ArrayLike | None = None) -> Batch:
        """Return the cutouts of a plan's targets as one batch.

        Parameters
        ----------
        plan
            Made by `plan` or `build_plan`.
        rows
            Numbers of the plan's targets in any order, or a mask of them; all of them by default.

        Raises
        ------
        MemoryBudgetError
            If the batch would take more than the memory that is free.
        """
        targets = checked_targets(rows, plan)
        self._check_memory(plan, len(targets))
        self._in_this_process()
        reader = CutoutReader(
            plan, planes=self.planes, mask_planes=self.mask_planes, cache=self.cache, files=self._files
        )
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="lsstcutouts")
            pending = reader.submit(self._pool, targets)
        try:
            return pending.result()
        except CancelledError as error:
            raise ConfigurationError("the fetcher was closed by another thread while it was fetching") from error

    def refresh(self) -> None:
        """Forget what the Butler said, absences included, and every decoded tile."""
        self._in_this_process()
        with self._lock:
            if self._planner is not None:
                self._planner.forget()
        self._files.close()
        self.cache.clear()

    def cache_info(self) -> CacheStats:
        """Return hits, misses and bytes of the tile cache so far."""
        return self.cache.stats()

    def _check_memory(self, plan: CutoutPlan, count: int) -> None:
        pixels = count * len(plan.bands) * plan.size.y * plan.size.x
        needed, free = pixels * 4 * max(1, len(self.planes)), available_memory()
        if needed > free:
            raise MemoryBudgetError(
                f"{count} cutouts take {needed / 1e9:.1f} GB at once and {free / 1e9:.1f} GB are free; fetch them in "
                "pieces with rows=, or iterate over a CutoutDataset"
            )


def _with_rejected(batch: Batch, plan: CutoutPlan) -> Batch:
    """Return the batch with a row of zeros for each rejected position, in the order of the catalog."""
    lost = plan.rejected
    if not len(lost):
        return batch
    fill: dict[str, NDArray[Any]] = {"object_id": lost.object_id, "ra": lost.ra, "dec": lost.dec}
    minus = np.full(len(lost), -1, np.int64)
    fill["tract"] = fill["patch"] = minus
    order = np.argsort(np.concatenate([plan.row, lost.row]))
    whole: Batch = {}
    for name, values in batch.items():
        array = np.asarray(values)
        extra = fill.get(name, np.zeros((len(lost), *array.shape[1:]), array.dtype))
        whole[name] = np.concatenate([array, extra])[order]
    return whole
