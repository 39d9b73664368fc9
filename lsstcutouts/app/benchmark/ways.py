"""The ways to read a sample that are compared, and how they are timed: in turn, run by run."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import numpy as np
import torch
from lsst.daf.butler import Butler, DatasetRef
from lsst.images import Box as ImagesBox
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from ...errors import PixelMismatchError
from ...fits.stages import StageClock
from ...loader.dataset import CutoutDataset
from ...loader.loader import CutoutLoader
from ...plan.read_options import ReadOptions
from ...read.cache.tile_cache import TileCache
from ...read.options import ReaderOptions
from ...read.reader import CutoutReader
from ...sky.geometry import Box
from .measured import BenchmarkSettings, MeasuredTargets

__all__ = ["ButlerWay", "LoaderWay", "MemoryWay", "ReaderWay", "Way", "check_pixels", "consume", "interleaved"]

type Array = NDArray[Any]

_BUTLER_SECONDS = 8.0
"""Time after which a run of `butler.get` ends: on a remote repository a target can take seconds."""

_COMPARED = 6
"""Targets whose pixels are compared."""


class Way(Protocol):
    """One way to read the sample."""

    name: str
    cache: str
    """``"empty"``: every tile has to be decoded, as in a first epoch. ``"full"``: none has to. ``""``: has no cache."""
    threads: int
    workers: int
    most_runs: int
    """Runs beyond which another one is not worth its time."""

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the sample, which returns its number of cutouts; preparing is not timed."""

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes ``(n, B, Y, X)`` of some targets of the plan."""

    def close(self) -> None:
        """Release files, threads and processes."""


class ButlerWay:
    """``butler.get(ref, parameters={"bbox": ...})``, target after target, band after band; refs are looked up before."""

    name, cache, threads, workers, most_runs = "butler.get loop", "", 1, 0, 2

    def __init__(self, sample: MeasuredTargets, most: int) -> None:
        self._sample = sample
        self._rows = sample.rows[np.linspace(0, len(sample.rows) - 1, min(most, len(sample.rows))).astype(np.int64)]
        plan = sample.plan
        self._butler = Butler.from_config(plan.repo, collections=plan.collections)
        self._refs: dict[tuple[int, int, str], DatasetRef] = {}
        needed = set(plan.primary[self._rows].tolist())
        for patch, band, file, _ in sample.files():
            if patch not in needed:
                continue
            ref = self._butler.get_dataset(UUID(plan.files.dataset_id[file]))
            if ref is not None:
                self._refs |= {(patch, band, plane): ref.makeComponentRef(plane) for plane in sample.planes}

    @property
    def needs_stack(self) -> bool:
        """Whether only the LSST stack reads these datasets: afw's classes of exposures."""
        return any("Exposure" in str(ref.datasetType.parentStorageClass) for ref in self._refs.values())

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the chosen targets."""
        return self._run

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes of some targets, as this package gives them: pixels that are not finite become 0."""
        found = [self._target(row) for row in rows.tolist()]
        planes = {name: np.stack([one[name] for one in found]) for name in self._sample.planes}
        if "image" in planes:
            planes["image"] = np.where(np.isfinite(planes["image"]), planes["image"], np.float32(0))
        return planes

    def close(self) -> None:
        """Close the Butler."""
        self._butler.close()

    @property
    def rows(self) -> NDArray[np.int64]:
        """The chosen targets."""
        return self._rows

    def _run(self) -> int:
        start = time.perf_counter()
        for count, row in enumerate(self._rows.tolist(), start=1):
            self._target(row)
            if time.perf_counter() - start > _BUTLER_SECONDS:
                return count
        return len(self._rows)

    def _target(self, row: int) -> dict[str, Array]:
        plan, box, patch = self._sample.plan, self._sample.box(row), int(self._sample.plan.primary[row])
        bands = range(len(plan.bands))
        return {
            plane: np.stack([self._plane(self._refs[patch, band, plane], plane, box) for band in bands])
            for plane in self._sample.planes
        }

    def _plane(self, ref: DatasetRef, plane: str, box: Box) -> Array:
        pixels = self._butler.get(ref, parameters={"bbox": ImagesBox.factory[box.y0 : box.y1, box.x0 : box.x1]})
        if plane != "mask":
            return np.asarray(pixels.array)
        masks = [pixels.get(name).astype(np.int32) << i for i, name in enumerate(self._sample.mask_planes)]
        return np.asarray(np.bitwise_or.reduce(masks))


class ReaderWay:
    """`CutoutReader.read`, batch by batch, in the calling thread."""

    name, threads, workers, most_runs = "reader", 1, 0, 1_000_000

    def __init__(self, sample: MeasuredTargets, settings: BenchmarkSettings, cache: str, shared: TileCache) -> None:
        self.cache = cache
        self._sample, self._settings, self._shared = sample, settings, shared
        self._kept: CutoutReader | None = None

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the sample."""
        if self.cache == "empty":
            self.close()
            self._kept = self._reader(TileCache(self._settings.cache_bytes))
        elif self._kept is None:
            self._kept = self._reader(self._shared)
            self._run(self._kept)
        return partial(self._run, self._kept)

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes of some targets."""
        with closing(self._reader(TileCache(self._settings.cache_bytes))) as reader:
            batch = reader.read(rows)
            return {name: np.asarray(batch[name]) for name in self._sample.planes}

    def close(self) -> None:
        """Close the files."""
        if self._kept is not None:
            self._kept.close()
        self._kept = None

    def _reader(self, cache: TileCache) -> CutoutReader:
        sample = self._sample
        options = ReaderOptions(planes=sample.planes, mask_planes=sample.mask_planes, flux_unit="native")
        return CutoutReader(sample.plan, options, cache=cache)

    def _run(self, reader: CutoutReader) -> int:
        rows, size = self._sample.rows, self._settings.batch_size
        return sum(len(reader.read(rows[at : at + size])["object_id"]) for at in range(0, len(rows), size))


class LoaderWay:
    """A pass through `CutoutLoader`, from ``iter()`` to the last batch, in shuffled order.

    With an empty cache dataset and cache are new in each pass. With a full one the loader stays, and with it its worker
    processes: their start is not part of a rate, `start_seconds` has it.
    """

    name, most_runs = "loader", 1_000_000

    def __init__(
        self,
        sample: MeasuredTargets,
        settings: BenchmarkSettings,
        cache: str,
        shared: TileCache,
        *,
        threads: int,
        workers: int = 0,
        clock: StageClock | None = None,
    ) -> None:
        self.cache, self.threads, self.workers, self.clock = cache, threads, workers, clock
        self._sample, self._settings, self._shared = sample, settings, shared
        self._kept: CutoutLoader | None = None
        self.tiles = shared
        """The cache of the latest pass."""
        self.start_seconds: float | None = None
        """From ``iter()`` to the first batch of the first pass, with worker processes."""

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the sample."""
        if self.cache == "empty":
            self.tiles = TileCache(self._settings.cache_bytes)
            return partial(consume, self._loader(self.tiles))
        if self._kept is None:
            self._kept = self._loader(self._shared)
            start = time.perf_counter()
            batches = iter(self._kept)
            next(batches)
            self.start_seconds = time.perf_counter() - start if self.workers else None
            consume(batches)
            # Each worker process has a cache of its own and gets other batches in each epoch.
            for _ in range(2 * (self.workers > 0)):
                consume(self._kept)
        return partial(consume, self._kept)

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes of some targets, in their order."""
        batches = list(self._loader(self._shared, rows))
        planes = {
            name: torch.cat([torch.as_tensor(b[name]) for b in batches]).cpu().numpy() for name in self._sample.planes
        }
        given = np.concatenate([np.asarray(b["yx0"]) for b in batches])
        order = [int(np.flatnonzero((given == yx).all(axis=1))[0]) for yx in self._sample.plan.yx0[rows]]
        return {name: plane[order] for name, plane in planes.items()}

    def close(self) -> None:
        """Let worker processes end."""
        self._kept, self.tiles = None, self._shared

    def _loader(self, cache: TileCache, rows: NDArray[np.int64] | None = None) -> CutoutLoader:
        sample, settings = self._sample, self._settings
        dataset = CutoutDataset(
            sample.plan,
            rows=sample.rows if rows is None else rows,
            batch_size=settings.batch_size,
            planes=sample.planes,
            read=ReadOptions(mask_planes=sample.mask_planes, flux_unit="native"),
            seed=settings.seed,
            threads=self.threads,
            cache=cache,
            clock=self.clock,
        )
        device = None if settings.device == "cpu" else torch.device(settings.device)
        return CutoutLoader(dataset, num_workers=self.workers if rows is None else 0, device=device)


class MemoryWay:
    """The same cutouts as a `TensorDataset` through torch's `DataLoader`: what a loop gets where nothing has to be read."""

    name, cache, threads, workers, most_runs = "tensors in memory", "", 1, 0, 1_000_000

    def __init__(self, reader: ReaderWay, sample: MeasuredTargets, batch_size: int) -> None:
        self._reader, self._sample, self._batch_size = reader, sample, batch_size
        self._loader: DataLoader[Any] | None = None

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the cutouts."""
        if self._loader is None:
            tensors = [torch.from_numpy(plane) for plane in self.pixels(self._sample.rows).values()]
            self._loader = DataLoader(TensorDataset(*tensors), batch_size=self._batch_size, shuffle=True)
        return partial(consume, self._loader)

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes of some targets."""
        return self._reader.pixels(rows)

    def close(self) -> None:
        """Drop the tensors."""
        self._loader = None


def consume(batches: Iterable[Any]) -> int:
    """Take every batch, drop it, and return the number of cutouts."""
    count = 0
    for batch in batches:
        count += len(batch["object_id"] if isinstance(batch, dict) else batch[0])
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return count


def interleaved(
    ways: Sequence[Way],
    repeats: int,
    *,
    least_seconds: float = 0.2,
    most_seconds: float = 1e9,
    after: Callable[[Way], object] = lambda _: None,
) -> list[tuple[float, ...]]:
    """Return the cutouts/s of each way, run by run in the order A B C A B C, so that a disturbance meets all of them.

    Parameters
    ----------
    ways
        What to measure.
    repeats
        Runs of each, at most.
    least_seconds
        Passes are repeated until a run has taken so long.
    most_seconds
        No further round begins after this time.
    after
        Called with each way after a run of it.
    """
    rates: list[list[float]] = [[] for _ in ways]
    begin = time.perf_counter()
    for run in range(repeats):
        if run and time.perf_counter() - begin > most_seconds:
            break
        for way, of in zip(ways, rates, strict=True):
            if run < way.most_runs:
                of.append(_rate(way, least_seconds))
            after(way)
    return [tuple(of) for of in rates]


def _rate(way: Way, least_seconds: float) -> float:
    count, seconds = 0, 0.0
    while seconds < least_seconds or not count:
        run = way.prepare()
        start = time.perf_counter()
        count += run()
        seconds += time.perf_counter() - start
        del run
    return count / seconds


def check_pixels(ways: Sequence[Way], sample: MeasuredTargets) -> None:
    """Compare what each way reads of a few targets; the first way is the reference.

    Raises
    ------
    PixelMismatchError
        A way gives other pixels.
    """
    rows = sample.rows[np.linspace(0, len(sample.rows) - 1, min(_COMPARED, len(sample.rows))).astype(np.int64)]
    rows = np.unique(rows)
    first, one = ways[0].pixels(rows), ways[0].name
    for way in {(type(w), w.cache, w.threads): w for w in ways[1:]}.values():
        found = way.pixels(rows)
        for plane in sample.planes:
            if not np.array_equal(first[plane], found[plane], equal_nan=plane != "mask"):
                different = np.asarray(first[plane] != found[plane])
                raise PixelMismatchError(
                    f"{way.name!r} and {one!r} give other pixels of {sample}: {int(different.sum())} of {different.size} in "
                    f"the {plane} plane; their speeds cannot be compared"
                )
