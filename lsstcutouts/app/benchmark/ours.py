"""Our own ways, as in training."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...fits.stages import StageClock
from ...loader.dataset import CutoutDataset
from ...loader.loader import CutoutLoader
from ...read.cache.tile_cache import TileCache
from ...read.reader import CutoutReader
from .fields import FLUX_UNIT, Field
from .settings import Regime
from .timing import MANY

__all__ = ["LoaderWay", "ReaderWay", "consume"]


def consume(batches: "CutoutLoader | torch.utils.data.DataLoader[Any]") -> int:
    """Take every batch, drop it, and return the number of cutouts."""
    count = 0
    for batch in batches:
        count += len(batch["object_id"] if isinstance(batch, dict) else batch[0])
    return count


def _kept_cache(regime: Regime, shared: TileCache, cache_bytes: float | str) -> TileCache:
    """Return the cache of passes that follow one another."""
    return TileCache(cache_bytes) if regime.cache == "cleared" else shared


class LoaderWay:
    """A pass through `CutoutLoader`: everything from ``iter()`` to the last batch.

    Parameters
    ----------
    field
        What is read.
    regime
        How. Cold: a new dataset and an empty cache each time, worker processes started anew. Cleared: the same loader
        again, its cache emptied. Warm: the same loader again, with worker processes that stay.
    cache
        For warm passes, shared by all of them.
    batch_size, cache_bytes, seed
        As in `CutoutDataset`.
    clock
        Adds up where the time goes.
    """

    name = "loader"

    def __init__(
        self,
        field: Field,
        regime: Regime,
        cache: TileCache,
        *,
        batch_size: int,
        cache_bytes: float | str = "auto",
        seed: int = 0,
        clock: StageClock | None = None,
    ) -> None:
        self.field, self.regime, self._cache = field, regime, cache
        self._batch_size, self._cache_bytes, self._seed = batch_size, cache_bytes, seed
        self.clock = clock
        # Starting worker processes takes seconds, and nearly all of such a pass.
        self.most_runs = 2 if regime.workers and regime.cache == "cold" else MANY
        self._kept: CutoutLoader | None = None
        self.latest: TileCache = cache
        """The cache of the latest pass."""

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the targets."""
        if self.regime.cache == "cold":
            self.latest = TileCache(self._cache_bytes)
            return partial(consume, self._loader(self.latest))
        if self._kept is None:
            self.latest = _kept_cache(self.regime, self._cache, self._cache_bytes)
            self._kept = self._loader(self.latest)
            # Worker processes each see other batches of the next pass: the second one finds nearly all.
            for _ in range(1 + (self.regime.workers > 0)):
                consume(self._kept)
        if self.regime.cache == "cleared":
            self.latest.clear()
        return partial(consume, self._kept)

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
        """Return planes of some targets, in their order."""
        cache = self._cache if self.regime.cache == "warm" else TileCache(self._cache_bytes)
        batches = list(self._loader(cache, rows))
        planes = {name: np.concatenate([np.asarray(b[name]) for b in batches]) for name in self.field.scene.names}
        given = np.concatenate([np.asarray(b["object_id"]) for b in batches])
        place = np.argsort(given)[np.argsort(np.argsort(self.field.plan.object_id[rows]))]
        return {name: plane[place] for name, plane in planes.items()}

    def close(self) -> None:
        """Let worker processes end and tiles go."""
        self._kept, self.latest = None, self._cache

    def _loader(self, cache: TileCache, rows: NDArray[np.int64] | None = None) -> CutoutLoader:
        dataset = CutoutDataset(
            self.field.plan,
            rows=self.field.rows if rows is None else rows,
            batch_size=self._batch_size,
            planes=self.field.scene.names,
            mask_planes=self.field.mask_planes,
            flux_unit=FLUX_UNIT,
            shuffle=self.regime.order == "shuffled",
            seed=self._seed,
            threads=self.regime.threads,
            cache=cache,
            clock=self.clock,
        )
        workers = self.regime.workers
        stay = workers > 0 and self.regime.cache == "warm" and rows is None
        return CutoutLoader(dataset, num_workers=workers, persistent_workers=stay)


class ReaderWay:
    """`CutoutReader.read`, batch by batch, in the calling thread: no pool, no loader."""

    name = "reader"
    most_runs = MANY

    def __init__(
        self, field: Field, regime: Regime, cache: TileCache, *, batch_size: int, cache_bytes: float | str = "auto"
    ) -> None:
        self.field, self.regime, self._cache = field, regime, cache
        self._batch_size, self._cache_bytes = batch_size, cache_bytes
        dataset = CutoutDataset(field.plan, rows=field.rows, shuffle=regime.order == "shuffled", cache=cache)
        self._order = dataset.order(0)
        self._kept: CutoutReader | None = None

    def prepare(self) -> Callable[[], int]:
        """Return one pass over the targets."""
        if self.regime.cache == "cold":
            return partial(self._run, CutoutReader(self.field.plan, self.field.options, cache=self._fresh()))
        if self._kept is None:
            cache = _kept_cache(self.regime, self._cache, self._cache_bytes)
            self._kept = CutoutReader(self.field.plan, self.field.options, cache=cache)
            self._run(self._kept)
        if self.regime.cache == "cleared":
            self._kept.cache.clear()
        return partial(self._run, self._kept)

    def pixels(self, rows: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
        """Return planes of some targets, in their order."""
        batch = CutoutReader(self.field.plan, self.field.options, cache=self._fresh()).read(rows)
        return {name: np.asarray(batch[name]) for name in self.field.scene.names}

    def close(self) -> None:
        """Close the files."""
        if self._kept is not None:
            self._kept.close()
        self._kept = None

    def _fresh(self) -> TileCache:
        return TileCache(self._cache_bytes)

    def _run(self, reader: CutoutReader) -> int:
        return sum(len(reader.read(rows)["object_id"]) for rows in self._batches())

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        for at in range(0, len(self._order), self._batch_size):
            yield self._order[at : at + self._batch_size]
