"""Fetches cutouts around positions as NumPy arrays."""

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ..catalog.ids import Values, concatenate_columns, hash_ids, take_rows
from ..catalog.targets import Catalog
from ..errors import ConfigurationError, LsstCutoutsError, MemoryBudgetError, MissingBandError, PlanError
from ..plan.arguments import SizeLike, has_size, parse_bands, parse_size, shown_size
from ..plan.cutout_plan import CutoutPlan
from ..plan.grid import Grid
from ..plan.planner import Planner
from ..plan.quality import Quality
from ..plan.read_options import ReadOptions
from ..plan.repository import Repository, as_names
from ..source.limits import available_memory
from ..source.notebook import html_table
from ..source.web.byte_parts import URGENT
from ..source.web.process import forget_requests, start_afresh
from .cache.stats import CacheStats
from .cache.tile_cache import TileCache
from .cutouts import Batch
from .export import write_fits
from .memory import Memory
from .open_files import OpenFiles
from .options import ReaderOptions
from .policies import misses_bands
from .reader import LEAST_PART, CutoutReader, Delivery, Request, checked_targets, default_threads
from .report import Report
from .threads import Threads

__all__ = ["LsstDataFetcher"]

_log = logging.getLogger(__name__)

_MOST_IDLE = 256_000_000
"""Bytes of dropped batches that wait for the next `fetch`: those of 600 cutouts of 6 bands and 128 x 128 pixels."""

_SMALL = 16_000_000
"""Bytes of a batch below which the free memory is not looked at, which takes 1 ms."""


class LsstDataFetcher:
    """Fetches synchronised multi-band cutouts from a Butler repository.

    Tiles are decoded by a pool of threads and kept in a cache; the locations of coadds are kept, including missing ones,
    so that a second `fetch` of the same area does not query the Butler. Use it as a context manager. The
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
        Pixels, or text with an angle such as ``"12 arcsec"``: one value, or ``(height, width)``.
    dataset_type
        Butler dataset type of the coadds.
    planes
        Any of ``"image"``, ``"variance"``, ``"ivar"``, ``"mask"``, ``"valid"``, ``"psf"``; only what they need is read.
    read
        How pixels are read, and the policies: `ReadOptions`.
    seed
        Seed of the noise of ``read.fill="noise"``.
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
        size: SizeLike,
        dataset_type: str = "deep_coadd",
        planes: Sequence[str] = ("image",),
        read: ReadOptions = ReadOptions(),
        seed: int = 0,
        threads: int | None = None,
        cache_bytes: float | str = "auto",
    ) -> None:
        self.repo = repo
        self.collections = as_names(collections)
        self.bands = parse_bands(bands)
        self.size = parse_size(size)
        self.dataset_type, self.read = dataset_type, read
        self.options = ReaderOptions.of(read, planes=planes, seed=seed)
        self.options.check_bands(self.bands)
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise ConfigurationError(f"threads must be an integer >= 1, got {threads!r}")
        self.threads = threads or default_threads()
        self.cache = TileCache(cache_bytes)
        self._start()

    def _repr_html_(self) -> str:
        latest = self._report
        rows: list[tuple[str, object]] = [
            ("repository", str(self.repo) if isinstance(self.repo, os.PathLike) else self.repo),
            ("collections", self.collections),
            ("dataset type", self.dataset_type),
            ("bands", self.bands),
            ("size", shown_size(self.size)),
            ("planes", tuple(self.options.planes)),
            ("threads", self.threads),
            ("latest fetch", f"{latest.delivered:,} of {len(latest):,} rows delivered" if latest is not None else None),
        ]
        return html_table("LsstDataFetcher", rows)

    def _start(self) -> None:
        """Start without threads, open files and Butler answers, as after construction, a fork or unpickling."""
        self._process = os.getpid()
        self._files = OpenFiles(self.cache)
        self._memory = Memory(self.cache.reserve, self.cache.release, most_idle=_MOST_IDLE)
        self._lock = Lock()  # a Butler is asked by one thread at a time
        self._planner: Planner | None = None
        self._pools: dict[int, Threads] = {}  # one at most; with `setdefault`, fetches that begin at once take the same
        self._report: Report | None = None

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
        """Stop the threads and close files and repository; a later `fetch` opens them again.

        A `fetch` of another thread ends with an error. Returns at once: where a generator holds the fetcher, the garbage
        collector may call this, in any thread and inside any locked block.
        """
        self._in_this_process()
        pools, self._pools = self._pools, {}
        for pool in list(pools.values()):
            pool.stop()  # closes the files, too
        planner, self._planner = self._planner, None
        self._memory = Memory(self.cache.reserve, self.cache.release, most_idle=_MOST_IDLE)
        # Where the lock is held, `plan` is under way and closes the repository itself.
        if planner is not None and self._lock.acquire(blocking=False):
            try:
                planner.repository.close()
            finally:
                self._lock.release()

    def fetch(
        self,
        ra: ArrayLike | Any,
        dec: ArrayLike | None = None,
        *,
        object_id: ArrayLike | None = None,
        grid: Grid | None = None,
    ) -> Batch:
        """Return cutouts around positions, in their order.

        Parameters
        ----------
        ra, dec
            Degrees ICRS, or astropy Quantities: numbers or ``(N,)``; or an astropy ``SkyCoord`` alone, in any frame.
        object_id
            ``(N,)`` unique integers or texts; by default 0 to N - 1.
        grid
            Pixel grid of these cutouts, instead of ``read.grid``.

        Returns
        -------
        dict
            ``image`` ``(N, B, Y, X)`` float32 in the file's unit (nJy), ``band_present`` ``(N, B)`` and the rest of
            the batch. A position outside the coverage has no band: by default its pixels are 0,
            ``band_present`` is all False, and tract and patch are -1. `report` lists the result for every position.

        Raises
        ------
        CoverageError
            If no position is covered.
        CatalogError, RepositoryError, ReadError
            If the positions, the repository or a file cannot be used.
        """
        plan = self.plan(Catalog.from_arrays(ra, dec, object_id), grid=grid)
        return _with_rejected(self._fetched(plan, None, self._options_with(grid)), plan, self.options)

    def _options_with(self, grid: Grid | None) -> ReaderOptions:
        """Return the options with another grid, if one is given."""
        return self.options if grid is None else replace(self.options, grid=grid)

    def plan(self, catalog: object, columns: Sequence[str] = (), *, grid: Grid | None = None) -> CutoutPlan:
        """Return the plan of a catalog, querying the Butler only for patches that are not known yet.

        ``grid`` is the pixel grid of its cutouts, instead of ``read.grid``.
        """
        wanted = self._options_with(grid).grid
        targets = Catalog.from_any(catalog, columns=columns)
        self._in_this_process()
        with self._lock:
            planner = self._planner = self._planner or self._new_planner()
            try:
                return planner.plan(targets, grid=wanted)
            finally:
                if self._planner is not planner:  # `close` was called meanwhile
                    planner.repository.close()

    def _new_planner(self) -> Planner:
        repository = Repository(self.repo, self.collections, self.dataset_type, self.read.skymap)
        try:
            return Planner(repository, self.bands, self.size, self.read.tract)
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
            If the batch needs more memory than is free.
        PlanError
            If the plan is for other bands, another size or another pixel grid than this fetcher.
        """
        return self._fetched(plan, rows, self.options)

    def _fetched(self, plan: CutoutPlan, rows: ArrayLike | None, options: ReaderOptions) -> Batch:
        if plan.bands != self.bands or not has_size(plan, self.size):
            raise PlanError(
                f"the plan is for bands {','.join(plan.bands)} and {shown_size(plan.size)}, but this fetcher is for "
                f"{','.join(self.bands)} and {shown_size(self.size)}; make the plan with fetcher.plan()"
            )
        targets = checked_targets(rows, plan)
        self._in_this_process()
        self._check_memory(plan, len(targets))
        reader = CutoutReader(
            plan, options, cache=self.cache, files=self._files, empty=self._memory.empty, whole_tiles=True
        )
        if len(targets) <= LEAST_PART:  # one part: another thread would only cost time
            delivery = reader.deliver(targets)
        else:
            pool = self._pools.get(0) or self._pools.setdefault(0, Threads(self.threads, self._files.close))
            start_afresh()
            try:
                bytes_of = reader.request(pool, Request(targets), URGENT) if plan.files.remote else None
                delivery = reader.submit(pool, Request(targets), then=_as_delivered).result()
                del bytes_of
            except LsstCutoutsError:
                forget_requests()
                raise
            except CancelledError as error:
                raise ConfigurationError(
                    "the fetcher was closed by another thread while it was reading; create a new fetcher"
                ) from error
        report = Report(plan, None if rows is None else targets)
        report.add(delivery.batch_report)
        self._report = report
        if losses := report.losses():
            _log.warning("%s (`report` of the fetcher)", losses)
        return delivery.batch

    def write_fits(
        self, batch: Batch, directory: str | os.PathLike[str], *, overwrite: bool = False, grid: Grid | None = None
    ) -> list[Path]:
        """Write each target of a batch that this fetcher fetched to a FITS file of its own.

        As `lsstcutouts.write_fits`, with the plan, mask planes and unit that this fetcher knows. ``grid`` is that of the
        `fetch`, if one was given there.
        """
        ids = batch["object_id"]
        distinct, once = np.unique(np.asarray(ids), return_index=True)
        if len(np.unique(np.asarray(batch.get("object_hash", distinct)))) > len(distinct):
            raise ConfigurationError(
                "several targets of the batch have one id; use lsstcutouts.write_fits with the plan that was fetched"
            )
        ra, dec = (np.asarray(batch[name])[once] for name in ("ra", "dec"))
        plan = self.plan(
            Catalog.from_arrays(ra, dec, take_rows(ids if isinstance(ids, list) else np.asarray(ids), once)), grid=grid
        )
        return write_fits(
            batch,
            directory,
            plan,
            mask_planes=self.options.mask_planes,
            flux_unit=self.options.flux_unit,
            overwrite=overwrite,
        )

    @property
    def report(self) -> Report:
        """Result for every row of the latest `fetch` or `fetch_plan`.

        Raises
        ------
        ConfigurationError
            If nothing has been fetched.
        """
        if self._report is None:
            raise ConfigurationError("there is no report yet; call fetch() first")
        return self._report

    def refresh(self) -> None:
        """Discard all answers of the Butler, including missing coadds, and every decoded tile."""
        self._in_this_process()
        with self._lock:
            if self._planner is not None:
                self._planner.forget()
        self._files.forget()
        self.cache.clear()

    def cache_info(self) -> CacheStats:
        """Return hits, misses and bytes of the tile cache so far."""
        return self.cache.stats()

    def _check_memory(self, plan: CutoutPlan, count: int) -> None:
        pixels = count * len(plan.bands) * plan.size.y * plan.size.x
        needed = pixels * 4 * max(1, len({*self.options.planes, *self.options.sources}))
        if needed < _SMALL or needed <= available_memory():
            return
        self._memory.trim()
        if needed > (free := available_memory()):
            raise MemoryBudgetError(
                f"{count} cutouts need {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB of memory are free; fetch fewer "
                "at a time with rows=, or iterate over a CutoutDataset"
            )


def _as_delivered(delivery: Delivery) -> Delivery:
    return delivery


def _with_rejected(batch: Batch, plan: CutoutPlan, options: ReaderOptions) -> Batch:
    """Return the batch with a row for each rejected position, without any band, in the order of the catalog."""
    lost = plan.rejected
    absent = np.ones((len(lost), len(plan.bands)), bool)
    if options.missing_band == "raise" and len(lost):
        number, reasons = lost.texts()
        raise MissingBandError(
            f"target {lost.object_id[0]} (catalog row {lost.row[0]}, ra {lost.ra[0]:.5f}, dec {lost.dec[0]:.5f}) and "
            f"{len(lost) - 1} more are outside the coverage; the first: {reasons[number[0]]}"
        )
    if not len(lost) or misses_bands(absent, plan.bands, options).any():
        return batch
    minus = np.full(len(lost), -1, np.int64)
    fill: dict[str, Values] = {
        "object_id": lost.object_id,
        "object_hash": hash_ids(lost.object_id),
        "ra": lost.ra,
        "dec": lost.dec,
        "tract": minus,
        "patch": minus,
        "quality": np.full(absent.shape, Quality.BAND_ABSENT, np.int32),
        "wcs": np.full((len(lost), 8), np.nan),
    }
    nan = {"image", "variance"} if options.missing_band == "nan" else set()
    order = np.argsort([*plan.row[plan.targets_in(batch)], *lost.row])
    whole: Batch = {}
    for name, values in batch.items():
        if name in fill:
            whole[name] = take_rows(concatenate_columns([values, fill[name]]), order)
            continue
        array = np.asarray(values)
        extra = np.full((len(lost), *array.shape[1:]), np.nan if name in nan else 0, array.dtype)
        whole[name] = np.concatenate([array, extra])[order]
    return whole
