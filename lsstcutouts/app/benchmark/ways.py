"""The ways to read a sample that are compared, and how they are timed: in turn, run by run."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any
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
from .measured import BenchmarkSettings, MeasuredTargets

__all__ = ["ButlerWay", "LoaderWay", "MemoryWay", "ReaderWay", "Way", "check_pixels", "consume", "interleaved"]

type Array = NDArray[Any]

_BUTLER_SECONDS = 8.0
"""Time after which a run of `butler.get` ends: on a remote repository a target can take seconds."""

_COMPARED = 6
"""Targets whose pixels are compared."""


class Way(ABC):
    """One way to read the sample.

    With the cache ``"empty"`` every header is read and every tile decoded, as in a first epoch, into memory that is there
    already; ``"full"`` holds what an earlier pass left.
    """

    name = cache = ""
    threads, workers, most_runs = 1, 0, 1_000_000

    @abstractmethod
    def prepare(self) -> Callable[[], int]:
        """Return one pass over the sample, which returns its number of cutouts; preparing is not timed."""

    @abstractmethod
    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes ``(n, B, Y, X)`` of some targets of the plan; ``rows`` ascend."""

    def close(self) -> None:  # noqa: B027 - not every way keeps something open
        """Release files, threads and processes."""


class ButlerWay(Way):
    """``butler.get(ref, parameters={"bbox": ...})``, target after target, band after band; refs are looked up before."""

    name, most_runs = "butler.get loop", 2

    def __init__(self, sample: MeasuredTargets, most: int) -> None:
        self._sample, self.rows = sample, sample.some_rows(most)
        plan = sample.plan
        self._butler = Butler.from_config(plan.repo, collections=plan.collections)
        self._refs: dict[tuple[int, int, str], DatasetRef] = {}
        self._look_up(self.rows)

    @property
    def needs_stack(self) -> bool:
        """Whether only the LSST stack reads these datasets: afw's classes of exposures."""
        return any("Exposure" in str(ref.datasetType.parentStorageClass) for ref in self._refs.values())

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the chosen targets."""
        return self._run

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, Array]:
        """Return planes of some targets, as this package gives them: pixels that are not finite become 0."""
        self._look_up(rows)
        found = [self._target(row) for row in rows.tolist()]
        planes = {name: np.stack([one[name] for one in found]) for name in self._sample.planes}
        if "image" in planes:
            planes["image"] = np.where(np.isfinite(planes["image"]), planes["image"], np.float32(0))
        return planes

    def close(self) -> None:
        """Close the Butler."""
        self._butler.close()

    def _look_up(self, rows: NDArray[np.int64]) -> None:
        """Learn the refs of the files under some targets."""
        plan = self._sample.plan
        for patch in {*plan.primary[rows].tolist()} - {patch for patch, _, _ in self._refs}:
            for band, file in enumerate(plan.patches.files[patch].tolist()):
                ref = self._butler.get_dataset(UUID(plan.files.dataset_id[file]))
                if ref is not None:
                    self._refs |= {(patch, band, plane): ref.makeComponentRef(plane) for plane in self._sample.planes}

    def _run(self) -> int:
        start = time.perf_counter()
        for count, row in enumerate(self.rows.tolist(), start=1):
            self._target(row)
            if time.perf_counter() - start > _BUTLER_SECONDS:
                return count
        return len(self.rows)

    def _target(self, row: int) -> dict[str, Array]:
        plan, box, patch = self._sample.plan, self._sample.box(row), int(self._sample.plan.primary[row])
        bbox = ImagesBox.factory[box.y0 : box.y1, box.x0 : box.x1]
        return {
            plane: np.stack(
                [self._plane(self._refs[patch, band, plane], plane, bbox) for band in range(len(plan.bands))]
            )
            for plane in self._sample.planes
        }

    def _plane(self, ref: DatasetRef, plane: str, bbox: ImagesBox) -> Array:
        pixels = self._butler.get(ref, parameters={"bbox": bbox})
        if plane != "mask":
            return np.asarray(pixels.array)
        masks = [pixels.get(name).astype(np.int32) << i for i, name in enumerate(self._sample.mask_planes)]
        return np.asarray(np.bitwise_or.reduce(masks))


class ReaderWay(Way):
    """`CutoutReader.read`, batch by batch, in the calling thread."""

    name = "reader"

    def __init__(self, sample: MeasuredTargets, settings: BenchmarkSettings, cache: str, shared: TileCache) -> None:
        self.cache, self._sample, self._settings = cache, sample, settings
        self._shared = TileCache(settings.cache_bytes) if cache == "empty" else shared
        self._kept: CutoutReader | None = None

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the sample."""
        if self.cache == "empty":
            self.close()
            self._shared.clear()
            self._kept = self._reader(self._shared)
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


class MemoryWay(ReaderWay):
    """The same cutouts as a `TensorDataset` through torch's `DataLoader`: what a loop gets where nothing has to be read."""

    name = "tensors in memory"

    def __init__(self, sample: MeasuredTargets, settings: BenchmarkSettings) -> None:
        super().__init__(sample, settings, "", TileCache(settings.cache_bytes))
        self._tensors: DataLoader[Any] | None = None

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the cutouts."""
        if self._tensors is None:
            tensors = [torch.from_numpy(plane) for plane in self.pixels(self._sample.rows).values()]
            self._tensors = DataLoader(TensorDataset(*tensors), batch_size=self._settings.batch_size, shuffle=True)
        return partial(consume, self._tensors)


class LoaderWay(Way):
    """A pass through `CutoutLoader`, from ``iter()`` to the last batch, in shuffled order.

    With an empty cache the dataset is new in each pass; the memory of the cache, ``tiles``, stays. With a full one the loader stays,
    and with it its worker processes: their start is not part of a rate, but ``start_seconds``.
    """

    name = "loader"

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
        self.cache, self.threads, self.workers = cache, threads, workers
        self.tiles = TileCache(settings.cache_bytes) if cache == "empty" else shared
        self.start_seconds: float | None = None
        self._sample, self._settings, self._clock = sample, settings, clock
        self._kept: CutoutLoader | None = None

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the sample."""
        if self.cache == "empty":
            self.tiles.clear()
            return partial(consume, self._loader(self._sample.rows, self.workers))
        if self._kept is None:
            self._kept = self._loader(self._sample.rows, self.workers)
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
        loader = self._loader(rows, workers=0)
        place, batches = np.argsort(loader.cutouts.order(0)), list(loader)
        return {
            name: torch.cat([torch.as_tensor(b[name]) for b in batches]).cpu().numpy()[place]
            for name in self._sample.planes
        }

    def close(self) -> None:
        """Let worker processes end."""
        self._kept = None

    def _loader(self, rows: NDArray[np.int64], workers: int) -> CutoutLoader:
        sample, settings = self._sample, self._settings
        dataset = CutoutDataset(
            sample.plan,
            rows=rows,
            batch_size=settings.batch_size,
            planes=sample.planes,
            read=ReadOptions(mask_planes=sample.mask_planes, flux_unit="native"),
            seed=settings.seed,
            threads=self.threads,
            cache=self.tiles,
            clock=self._clock,
        )
        device = None if settings.device == "cpu" else torch.device(settings.device)
        return CutoutLoader(dataset, num_workers=workers, device=device)


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
    """Return the cutouts/s of each way in each run.

    Ways take turns, A B C A B C, so that a disturbance meets all of them. Passes are repeated until a run has taken
    ``least_seconds``; no further round begins after ``most_seconds``; ``after`` is called after each run.
    """
    rates: list[list[float]] = [[] for _ in ways]
    begin = time.perf_counter()
    for run in range(repeats):
        if run and time.perf_counter() - begin > most_seconds:
            break
        for at, way in enumerate(ways):
            count, seconds = 0, 0.0
            while run < way.most_runs and (seconds < least_seconds or not count):
                one_pass = way.prepare()
                start = time.perf_counter()
                count += one_pass()
                seconds += time.perf_counter() - start
            rates[at] += [count / seconds] if count else []
            after(way)
    return [tuple(of) for of in rates]


def check_pixels(ways: Sequence[Way], sample: MeasuredTargets) -> None:
    """Raise `PixelMismatchError` if a way reads other pixels of a few targets than the first way."""
    rows = sample.some_rows(_COMPARED)
    first, one = ways[0].pixels(rows), ways[0].name
    for way in {(type(w), w.cache, w.threads): w for w in ways[1:]}.values():
        found = way.pixels(rows)
        for plane in sample.planes:
            if not np.array_equal(first[plane], found[plane], equal_nan=plane != "mask"):
                different = np.asarray(first[plane] != found[plane])
                raise PixelMismatchError(
                    f"{way.name!r} and {one!r} give different pixels of {sample}: {int(different.sum())} of {different.size} "
                    f"in the {plane} plane; their speeds cannot be compared"
                )
