"""The trainers and loaders of a data module, and the position of the training."""

import logging
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.trainer.states import RunningStage, TrainerFn, TrainerStatus
from torch import Tensor

from ...errors import ConfigurationError
from ...order.world import Position, World
from ...read.cache.stats import CacheStats
from ...transforms.batch import TensorBatch
from ..dataset import CutoutDataset
from ..lightning_epoch import training_position
from ..loader import CutoutLoader
from ..transfer_options import TransferOptions
from ..workers import WorkerCaches

__all__ = ["TrainingLoaders", "check_monitors", "ignore_misleading_warnings", "in_precision"]

_log = logging.getLogger(__name__)

_KEPT = 4
"""Batches that are kept as they were delivered until the trainer moves them to the device: one for each loader."""


_MISLEADING = (
    # The loader's length is exact on every rank and for any number of workers: batches are assigned by number.
    r".*`IterableDataset` has `__len__` defined.*",
    # Threads inside the process feed the device; worker processes would be slower.
    r".*does not have many workers.*",
)
"""Warnings of Lightning that are wrong for our loaders."""


_STAGES = {
    RunningStage.TRAINING: "train",
    RunningStage.SANITY_CHECKING: "val",
    RunningStage.VALIDATING: "val",
    RunningStage.TESTING: "test",
}


class TrainingLoaders:
    """Follows the trainers and loaders of a data module.

    A trainer may run inside another one, such as a search or a validation in a callback; the inner one has priority. The
    position is that of the loader which the training reads, also while other loaders are made.
    """

    def __init__(self) -> None:
        self.loaders: dict[str, CutoutLoader] = {}
        """The loader of each split that delivered the latest batch; before the first batch a loader that was made."""
        self.transforming = False
        """Whether a batch of the training is in the transforms; stays true if they fail."""
        self.unused = ""
        """What does not run if a trainer has a loader without its data module."""
        self._warned = False
        self._trainer: L.Trainer | None = None
        self._outer: list[weakref.ref[L.Trainer]] = []
        self._splits: weakref.WeakKeyDictionary[CutoutLoader, str] = weakref.WeakKeyDictionary()
        self._of_trainer: weakref.WeakKeyDictionary[L.Trainer, CutoutLoader] = weakref.WeakKeyDictionary()
        self._of_loop: CutoutLoader | None = None  # of a plain loop
        self._newest: Callable[[], CutoutLoader | None] = lambda: None
        self._start: dict[str, Any] | None = None
        self._delivered: deque[TensorBatch] = deque(maxlen=_KEPT)
        self._caches: list[WorkerCaches] = []  # of the worker processes of each loader

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the loaders; processes that a trainer starts receive the trainer with the data module.
        return _restored, (self._trainer, self._start)

    @property
    def trainer(self) -> L.Trainer | None:
        """The innermost running trainer; the latest one if none is running."""
        outer = (ref() for ref in reversed(self._outer))
        for one in (self._trainer, *outer):
            if one is not None and _runs(one):
                return one
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: L.Trainer | None) -> None:
        before = self._trainer
        self._outer = [ref for ref in self._outer if (one := ref()) is not None and _runs(one)]
        if before is not None and before is not trainer and _runs(before):
            self._outer.append(weakref.ref(before))
        self._trainer = trainer

    @property
    def world(self) -> World:
        """Rank and number of ranks of the trainer."""
        trainer = self.trainer
        return World() if trainer is None else World(trainer.global_rank, trainer.world_size)

    @property
    def device(self) -> torch.device | None:
        """The trainer's GPU: Lightning does not copy batches that are there already."""
        device = None if self.trainer is None else self.trainer.strategy.root_device
        return device if device is not None and device.type == "cuda" else None

    @property
    def stage(self) -> str:
        """What the trainer does with its batches: ``"train"``, ``"val"``, ``"test"`` or ``"predict"``."""
        running = None if self.trainer is None else self.trainer.state.stage
        return "predict" if running is None else _STAGES.get(running, "predict")

    @property
    def epoch(self) -> int | None:
        """Epoch of the training; None before there is a loader."""
        return None if self.loader is None else self.loader.position.epoch

    @property
    def predicting(self) -> bool:
        """Whether the trainer predicts."""
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.PREDICTING

    @property
    def fitting(self) -> bool:
        """Whether the trainer trains."""
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    @property
    def overfitting(self) -> bool:
        """Whether the trainer repeats the same few batches."""
        return getattr(self.trainer, "overfit_batches", 0) > 0

    @property
    def loader(self) -> CutoutLoader | None:
        """The loader that the training reads; in a plain loop the one that delivered the latest batch."""
        trainer = self.trainer
        if trainer is None:
            return self._of_loop
        if _runs(trainer):
            for loader in self._in_use(trainer):
                self._of_trainer[trainer] = loader
            return self._of_trainer.get(trainer)
        return self._of_trainer.get(trainer, self._of_loop)

    def new(self, dataset: CutoutDataset, split: str, *, num_workers: int, transfer: TransferOptions) -> CutoutLoader:
        """Return a new loader; one of the training split continues at the position of the training."""
        pin_memory = None if self.trainer is None else self.device is not None
        loader = CutoutLoader(
            dataset, num_workers=num_workers, device=self.device, transfer=transfer, pin_memory=pin_memory
        )
        self._caches.append(loader.worker_pool.caches)
        loader.cutouts.observer = weakref.ref(self)
        self._splits[loader] = split
        if split not in self.loaders or not self.loaders[split].begun:
            self.loaders[split] = loader
        if split != "train":
            return loader
        trainer = self.trainer
        earlier = self.loader if trainer is not None and _runs(trainer) else self._of_loop or self.loader
        if earlier is not None:
            loader.continue_from(earlier)
        if self._start is not None:
            loader.load_state_dict(self._start)
        self._newest, self.transforming = weakref.ref(loader), False
        return loader

    def worker_stats(self) -> CacheStats:
        """Return the sum of the cache statistics of all worker processes."""
        return sum((caches.total() for caches in self._caches), CacheStats())

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training, as a loader does."""
        if self._start is not None:
            return self._start
        loader = self.loader
        return Position()._asdict() if loader is None else loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the training start here, with its loader or with one that is made before its first batch."""
        self._start = dict(state)
        trainer = self.trainer
        # Lightning loads a state before it asks for a loader; a search for a batch size loads after that.
        newest = self._newest()
        found = self._in_use(trainer) if trainer is not None and _runs(trainer) else [] if newest is None else [newest]
        for loader in found:
            loader.load_state_dict(self._start)
            loader.restart()

    def batch_delivered(self, loader: CutoutLoader, batch: TensorBatch) -> None:
        """Record a batch, planes ``(N, B, Y, X)``, that a loader delivers to its loop."""
        trainer, split = self.trainer, self._splits.get(loader, "")
        if split:
            self.loaders[split] = loader
        if trainer is None or not _runs(trainer):
            if split == "train":
                self._of_loop, self._start = loader, None
            return
        if _changes_types(trainer.precision_plugin):
            self._delivered.append(batch)
        if split == "train" and loader is self.loader:
            self._start = None

    def as_delivered(self, batch: TensorBatch) -> TensorBatch:
        """Return the batch, planes ``(N, B, Y, X)``, before the trainer converted its precision; the transforms need that one."""
        for one in self._delivered:
            if one["patch"] is batch.get("patch"):
                self._delivered = deque((other for other in self._delivered if other is not one), maxlen=_KEPT)
                return one
        return batch

    def converted(self, batch: TensorBatch, before: TensorBatch) -> TensorBatch:
        """Return a transformed batch, planes ``(N, B, Y, X)``, in the precision of the trainer; see `in_precision`."""
        return batch if self.trainer is None else in_precision(self.trainer.precision_plugin, batch, before)

    def training_position(self, loader: CutoutLoader, position: Position) -> Position:
        """Return the position of the training, from that of its loader."""
        trainer = self.trainer
        if trainer is None or not self.fitting or loader is not self.loader:
            return position
        return training_position(trainer.fit_loop, loader, position, ahead=self.transforming)

    def trainer_reads(self, loader: CutoutLoader) -> None:
        """Warn once of what does not run in a trainer that has a loader but not the data module."""
        trainer = self.trainer
        if self.unused and not self._warned and (trainer is None or not _runs(trainer)):
            self._warned = True
            _log.warning(
                "a trainer reads %s_dataloader() without its data module, so %s will not run. Give it the data module, such "
                "as trainer.fit(model, datamodule=data), or call data.transform(batch) in the step",
                self._splits.get(loader, "predict"),
                self.unused,
            )

    def _in_use(self, trainer: L.Trainer) -> list[CutoutLoader]:
        """Return the loaders of the training split that a trainer trains on."""
        loaders: Any = trainer.train_dataloader
        if isinstance(loaders, Mapping):
            loaders = list(loaders.values())
        several = loaders if isinstance(loaders, list | tuple) else [loaders]
        return [one for one in several if isinstance(one, CutoutLoader) and self._splits.get(one) == "train"]


def in_precision(precision: Precision, batch: TensorBatch, before: TensorBatch) -> TensorBatch:
    """Return a transformed batch, planes ``(N, B, Y, X)``, in the precision of a trainer; float64 positions remain float64.

    Parameters
    ----------
    precision
        Lightning's plugin.
    batch, before
        After and before the transforms. What they add, such as ``injected_position`` ``(N, 2)``, may be a position, too: of degrees
        16 bits keep tenths.
    """
    if not _changes_types(precision):
        return batch
    doubles = {n for n, value in before.items() if isinstance(value, Tensor) and value.dtype == torch.float64}
    doubles |= {n for n, v in batch.items() if isinstance(v, Tensor) and v.dtype == torch.float64 and v.ndim < 3}
    single = {name: value for name, value in batch.items() if name not in doubles}
    return {**batch, **precision.convert_input(single)}


def _restored(trainer: L.Trainer | None, start: dict[str, Any] | None) -> TrainingLoaders:
    position = TrainingLoaders()
    position.trainer, position._start = trainer, start
    return position


def _runs(trainer: L.Trainer) -> bool:
    return trainer.state.status == TrainerStatus.RUNNING


def _changes_types(precision: Precision) -> bool:
    """Return whether a trainer's precision changes the types of a batch."""
    return type(precision).convert_input is not Precision.convert_input


def check_monitors(trainer: L.Trainer, reason: str) -> None:
    """Refuse callbacks and schedules that wait for a validation metric when there is no validation.

    Raises
    ------
    ConfigurationError
        With the reason why there is none.
    """
    for one in (*getattr(trainer, "callbacks", ()), *trainer.lr_scheduler_configs):
        metric = getattr(one, "monitor", None)
        if isinstance(metric, str) and metric.startswith("val"):
            name = type(one).__name__
            raise ConfigurationError(
                f"{name} monitors {metric!r}, but there is no validation: {reason}; give val a share, or remove {name}"
            )


def ignore_misleading_warnings() -> None:
    """Ignore two warnings of Lightning that are wrong for our loaders."""
    for message in _MISLEADING:
        warnings.filterwarnings("ignore", message=message)
