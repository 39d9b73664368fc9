"""Whole batches as torch tensors, in an order that can be repeated, resumed and shared.

Threads inside the process decode and assemble several batches ahead; worker processes are supported and give
the same batches in the same order.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .cache import CacheStats, TileCache
from .cutout import Account, Batch, CutoutReader, QualityPolicy, ReadOptions, checked_targets, default_threads, stream
from .errors import ConfigurationError
from .order import DEFAULT_SHUFFLE_WIDTH, Share, batch_bounds, check_order, epoch_order
from .plan import CutoutPlan
from .report import Report

__all__ = ["CutoutDataset", "CutoutLoader", "TensorBatch"]

_log = logging.getLogger(__name__)

type TensorBatch = dict[str, torch.Tensor | list[str]]

_ACCOUNT = "lsstcutouts.account"
"""Key under which a batch from a worker process carries its `Account` to the main process; not a column's name."""


class CutoutDataset(IterableDataset[TensorBatch]):
    """Yields whole batches of cutouts; use it through a `CutoutLoader`.

    Parameters
    ----------
    plan
        What to read.
    rows
        Targets of the plan that belong to this dataset, numbers or a mask; all of them by default.
    batch_size
        Targets a batch; the last one of an epoch holds what is left.
    planes, mask_planes, missing_band, min_bands, required_bands, fill, quality, on_read_error, normalise_psf, flux_unit
        What a batch holds, and the policies, as in `LsstDataFetcher`. A target that is left out makes its batch
        shorter; a batch that loses all its targets holds one row that is marked ``is_padding``.
    shuffle
        Whether each epoch has a random order, a pure function of ``(seed, epoch, plan, shuffle_width)``; without it
        every epoch goes block by block over the sky, so that no tile is decoded twice.
    shuffle_width
        Blocks of sky open at once; the larger, the closer to a full permutation and the more memory it takes.
    seed
        Not negative.
    threads
        Decoding threads; by default the cores that this process may use, shared among worker processes.
    cache
        A cache to share with other datasets of this process; by default one of its own with ``cache_bytes``.
    cache_bytes
        Budget of the cache, of all worker processes together.
    share
        Which part of each global batch this process reads.
    """

    def __init__(
        self,
        plan: CutoutPlan,
        *,
        rows: NDArray[np.int64] | None = None,
        batch_size: int = 128,
        planes: Sequence[str] = ("image",),
        mask_planes: Sequence[str] = (),
        missing_band: Literal["zero", "nan", "skip", "raise"] = "zero",
        min_bands: int = 0,
        required_bands: Sequence[str] = (),
        fill: float | Literal["noise"] = 0.0,
        quality: QualityPolicy | None = None,
        on_read_error: Literal["raise", "mask", "skip"] = "raise",
        normalise_psf: bool = False,
        flux_unit: Literal["nJy", "native"] = "nJy",
        shuffle: bool = True,
        shuffle_width: int = DEFAULT_SHUFFLE_WIDTH,
        seed: int = 0,
        threads: int | None = None,
        cache: TileCache | None = None,
        cache_bytes: float | str = "auto",
        share: Share = Share(0, 1),
    ) -> None:
        super().__init__()
        self.plan = plan
        self.rows = checked_targets(rows, plan)
        if threads is not None and threads < 1:
            raise ConfigurationError(f"threads must be at least 1, got {threads}")
        check_order(seed=seed, shuffle_width=shuffle_width)
        self.batch_size, self.share = batch_size, share
        self.shuffle, self.shuffle_width, self.seed = shuffle, shuffle_width, seed
        self.threads = threads
        self.cache = TileCache(cache_bytes) if cache is None else cache
        self.options = ReadOptions(
            planes=planes,  # type: ignore[arg-type]
            mask_planes=mask_planes,  # type: ignore[arg-type]
            missing_band=missing_band,
            min_bands=min_bands,
            required_bands=required_bands,  # type: ignore[arg-type]
            fill=fill,
            quality=quality,
            on_read_error=on_read_error,
            normalise_psf=normalise_psf,
            flux_unit=flux_unit,
            seed=seed,
        )
        self._reader = CutoutReader(plan, self.options, cache=self.cache)
        self._whole = rows is None
        self._report: Report | None = None
        self._bounds = batch_bounds(len(self.rows), batch_size, share)
        # (epoch, batches already delivered): shared memory, so that it reaches workers that outlive an epoch.
        self._position = torch.zeros(2, dtype=torch.int64)
        self.share_position()
        self._blocks: NDArray[np.int64] | None = None

    @property
    def steps(self) -> int:
        """Batches of a whole epoch."""
        return len(self._bounds)

    @property
    def report(self) -> Report:
        """What became of the rows in the latest epoch that was begun, so far.

        Batches that worker processes read count when a `CutoutLoader` hands them out.
        """
        if self._report is None:
            self._report = Report(self.plan, None if self._whole else self.rows)
        return self._report

    def begin_report(self) -> None:
        """Begin the account of an epoch."""
        self._report = None

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes need no account of what others have read.
        return {**self.__dict__, "_report": None}

    def share_position(self) -> None:
        """Put the position where worker processes see it change; a copied dataset has its own."""
        self._position.share_memory_()  # type: ignore[no-untyped-call]

    def seek(self, epoch: int, done: int = 0) -> None:
        """Let the next iterator start at batch ``done`` of ``epoch``, in worker processes too."""
        if epoch < 0 or not 0 <= done <= self.steps:
            raise ConfigurationError(f"no batch {done} of epoch {epoch}: an epoch has {self.steps} batches")
        self._position[0], self._position[1] = epoch, done

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the plan's target numbers in the order of an epoch, all ranks together."""
        if self._blocks is None:
            self._blocks = self.plan.blocks(self.rows)
        blocks = self._blocks
        if not self.shuffle:
            return self.rows[np.argsort(blocks, kind="stable")]
        return self.rows[epoch_order(blocks, seed=self.seed, epoch=epoch, shuffle_width=self.shuffle_width)]

    def __iter__(self) -> Iterator[TensorBatch]:
        epoch, done = self._position.tolist()
        order = self.order(epoch)
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        threads = self.threads or max(1, default_threads() // stride)
        self.cache.share_among(stride)
        bounds = self._bounds[done + first :: stride].tolist()
        batches = (order[low:high] for low, high in bounds)
        if worker is None and done == 0:
            self.begin_report()
        # An iterator that is given up and goes on all the same does not write into the report of a later epoch.
        report = self.report
        for delivery in stream(self._reader, batches, threads=threads, ahead=max(2, threads)):
            tensors = _as_tensors(delivery.batch)
            if worker is None:
                report.add(delivery.account)
                yield tensors
            else:
                yield {**tensors, _ACCOUNT: delivery.account}  # type: ignore[dict-item]


def _as_tensors(batch: Batch) -> TensorBatch:
    return {name: v if isinstance(v, list) else torch.from_numpy(np.ascontiguousarray(v)) for name, v in batch.items()}


def _same(batch: Any) -> Any:
    """Collate nothing: the dataset yields whole batches."""
    return batch


class CutoutLoader(DataLoader[TensorBatch]):
    """A `DataLoader` over a `CutoutDataset` that knows its place: ``(epoch, done)``.

    ``done`` counts the batches handed to the loop, whatever is prefetched behind them. A new iterator after a
    pass that delivered something starts the next epoch; one after an unconsumed pass does not. ``len`` is
    always the whole epoch.

    Parameters
    ----------
    dataset
        Yields whole batches.
    num_workers
        0 reads with threads inside this process, which is the fastest; more start worker processes.
    pin_memory
        Page-locked batches for a fast copy to the GPU; by default where CUDA is.
    persistent_workers, prefetch_factor, timeout
        As in `torch.utils.data.DataLoader`.
    multiprocessing_context
        Start method of the workers; by default ``"forkserver"``, since a process with threads must not fork.
    sampler, batch_sampler
        Must be None: the dataset orders itself. They are there since Lightning passes them when it makes a loader
        anew for prediction.
    """

    def __init__(
        self,
        dataset: CutoutDataset,
        *,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        timeout: float = 0,
        multiprocessing_context: Any = None,
        sampler: None = None,
        batch_sampler: None = None,
    ) -> None:
        if sampler is not None or batch_sampler is not None:
            raise ConfigurationError(
                "a CutoutLoader takes no sampler: the dataset orders and shares its batches itself"
            )
        if num_workers > 0 and multiprocessing_context is None:
            multiprocessing_context = "forkserver"
        super().__init__(
            dataset,
            batch_size=None,
            collate_fn=_same,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
            persistent_workers=persistent_workers,
            prefetch_factor=prefetch_factor,
            timeout=timeout,
            multiprocessing_context=multiprocessing_context if num_workers > 0 else None,
        )
        dataset.share_position()
        self.epoch, self.done = 0, 0
        self.adjusted: Callable[[int, int], tuple[int, int]] | None = None
        """What a trainer makes of the place: it may have fetched a batch and not trained on it."""
        self.waited = 0.0
        """Seconds that loops have waited in this loader for a batch."""
        self._delivered = False
        self._said = False
        self._passes = 0

    @property
    def cutouts(self) -> CutoutDataset:
        """The dataset, with its type."""
        return self.dataset  # type: ignore[return-value]

    def __len__(self) -> int:
        return self.cutouts.steps

    def __iter__(self) -> "_Pass":  # type: ignore[override]
        self._say_losses()  # of a pass that was cut short
        if self._delivered or self.done >= len(self) > 0:
            self.epoch, self.done = self.epoch + 1, 0
        self._delivered = False
        self._passes += 1
        self.cutouts.seek(self.epoch, self.done)
        if self.done == 0:
            self.cutouts.begin_report()
        return _Pass(self, self._passes, super().__iter__())

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be this epoch, from its beginning."""
        self.cutouts.seek(epoch)
        self.epoch, self.done, self._delivered = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        """Return the place of the loop: ``epoch`` and the batches of it that are ``done``."""
        epoch, done = self.epoch, self.done
        if self.adjusted is not None:
            epoch, done = self.adjusted(epoch, done)
        return {"epoch": epoch, "done": done}

    def follow(self, earlier: "CutoutLoader") -> None:
        """Go on after an earlier loader of the same dataset, as if it were this one."""
        self.epoch, self.done, self._delivered = earlier.epoch, min(earlier.done, len(self)), earlier._delivered
        self.waited = earlier.waited

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass go on where ``state`` was taken."""
        self.cutouts.seek(state["epoch"], state["done"])
        if state["epoch"] != self.epoch:
            self.cutouts.begin_report()
        self.epoch, self.done, self._delivered = state["epoch"], state["done"], False

    @property
    def report(self) -> Report:
        """What became of the rows in the latest epoch that was begun, so far; of this process's share of them."""
        return self.cutouts.report

    def cache_info(self) -> CacheStats:
        """Return hits, misses and bytes of this process's cache; worker processes have their own."""
        return self.cutouts.cache.stats()

    def _say_losses(self) -> None:
        """Say what was lost in the latest pass, once in a loader's life."""
        if not self._said and self._delivered and (losses := self.report.losses()):
            self._said = True
            _log.warning("%s (`report` of the loader)", losses)

    def count(self, number: int, waited: float, account: Account | None) -> None:
        """Take note that pass ``number`` hands out one more batch, after so many seconds; only the latest one counts."""
        if number != self._passes:
            return
        if account is not None:
            self.report.add(account)
        self.done += 1
        self.waited += waited
        self._delivered = True
        if self.done == len(self):  # Lightning stops here, and never asks for the end
            self._say_losses()


class _Pass:
    """One pass over a loader, counting what it hands out."""

    def __init__(self, loader: CutoutLoader, number: int, batches: Iterator[TensorBatch]) -> None:
        self._loader, self._number, self._batches = loader, number, batches

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TensorBatch:
        start = time.perf_counter()
        batch = next(self._batches)
        account: Any = batch.pop(_ACCOUNT, None)
        self._loader.count(self._number, time.perf_counter() - start, account)
        return batch

    def __len__(self) -> int:
        return len(self._loader)
