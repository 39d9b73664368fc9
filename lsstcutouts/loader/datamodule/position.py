"""Which loader a training reads, and how far it is, whoever else asks the data module for loaders meanwhile."""

import logging
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch import Tensor

from ...order.world import Position
from ...transforms.batch import TensorBatch
from ..lightning_epoch import training_position
from ..loader import CutoutLoader

__all__ = ["TrainingPosition"]

_log = logging.getLogger(__name__)

_KEPT = 4
"""Batches that are kept as they were handed out until the trainer brings them to the device: one for each loader."""


class TrainingPosition:
    """Follows the trainers and loaders of a data module.

    A trainer may run inside another one, such as a search or a validation in a callback; the inner one comes first.
    """

    def __init__(self) -> None:
        self.loaders: dict[str, CutoutLoader] = {}
        """Loader of each split that handed out a batch last; one that was asked for, where none has."""
        self.transforming = False
        """Whether a batch of the training is in the transforms; it stays so when they fail."""
        self.unused = ""
        """What a trainer leaves out that has a loader of the data module without the data module."""
        self._said = False
        self._trainer: L.Trainer | None = None
        self._outer: list[weakref.ref[L.Trainer]] = []
        self._splits: weakref.WeakKeyDictionary[CutoutLoader, str] = weakref.WeakKeyDictionary()
        self._of_trainer: weakref.WeakKeyDictionary[L.Trainer, CutoutLoader] = weakref.WeakKeyDictionary()
        self._of_loop: CutoutLoader | None = None  # of a plain loop
        self._asked: Callable[[], CutoutLoader | None] = lambda: None
        self._start: dict[str, Any] | None = None
        self._handed: deque[TensorBatch] = deque(maxlen=_KEPT)

    def __reduce__(self) -> tuple[Any, ...]:
        # Loaders stay behind; processes that a trainer starts get the trainer with the data module.
        return _restored, (self._trainer, self._start)

    @property
    def trainer(self) -> L.Trainer | None:
        """The innermost trainer that runs; the latest one where none does."""
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
    def loader(self) -> CutoutLoader | None:
        """The loader that the training reads; in a plain loop the one that handed out a batch last."""
        trainer = self.trainer
        if trainer is None:
            return self._of_loop
        if _runs(trainer):
            for loader in self._in_use(trainer):
                self._of_trainer[trainer] = loader
            return self._of_trainer.get(trainer)
        return self._of_trainer.get(trainer, self._of_loop)

    def made(self, loader: CutoutLoader, split: str) -> None:
        """Record a new loader; one of the training split resumes where the training is."""
        loader.cutouts.observer = weakref.ref(self)
        self._splits[loader] = split
        if split not in self.loaders or not self.loaders[split].begun:
            self.loaders[split] = loader
        if split != "train":
            return
        trainer = self.trainer
        earlier = self.loader if trainer is not None and _runs(trainer) else self._of_loop or self.loader
        if earlier is not None:
            loader.continue_from(earlier)
        if self._start is not None:
            loader.load_state_dict(self._start)
        self._asked, self.transforming = weakref.ref(loader), False

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training, as a loader does."""
        if self._start is not None:
            return self._start
        loader = self.loader
        return Position()._asdict() if loader is None else loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the training begin here, with the loader that it has, or with one that it asks for before its first batch."""
        self._start = dict(state)
        trainer = self.trainer
        # Lightning loads before it asks for a loader; a search for a batch size loads after that.
        asked = self._asked()
        found = self._in_use(trainer) if trainer is not None and _runs(trainer) else [] if asked is None else [asked]
        for loader in found:
            loader.load_state_dict(self._start)
            loader.restart()

    def batch_delivered(self, loader: CutoutLoader, batch: TensorBatch) -> None:
        """Record a batch."""
        trainer, split = self.trainer, self._splits.get(loader, "")
        if split:
            self.loaders[split] = loader
        if trainer is None or not _runs(trainer):
            if split == "train":
                self._of_loop, self._start = loader, None
            return
        if _converts(trainer):
            self._handed.append(batch)
        if split == "train" and loader is self.loader:
            self._start = None

    def as_handed_out(self, batch: TensorBatch) -> TensorBatch:
        """Return a batch as it was before the trainer converted it to the type of its model: the transforms come first."""
        for one in self._handed:
            if one["patch"] is batch.get("patch"):
                self._handed = deque((other for other in self._handed if other is not one), maxlen=_KEPT)
                return one
        return batch

    def converted(self, batch: TensorBatch, before: TensorBatch) -> TensorBatch:
        """Return a transformed batch in the trainer's precision; what came in float64, such as positions, stays so."""
        trainer = self.trainer
        if trainer is None or not _converts(trainer):
            return batch
        doubles = {n for n, value in before.items() if isinstance(value, Tensor) and value.dtype == torch.float64}
        single = {name: value for name, value in batch.items() if name not in doubles}
        return {**batch, **trainer.precision_plugin.convert_input(single)}

    def training_position(self, loader: CutoutLoader, position: Position) -> Position:
        """Return the position of the training, from that of its loader."""
        trainer = self.trainer
        if trainer is None or trainer.state.fn != TrainerFn.FITTING or loader is not self.loader:
            return position
        return training_position(trainer.fit_loop, loader, position, ahead=self.transforming)

    def trainer_reads(self, loader: CutoutLoader) -> None:
        """Say once what a trainer leaves out that has a loader and not the data module."""
        trainer = self.trainer
        if self.unused and not self._said and (trainer is None or not _runs(trainer)):
            self._said = True
            _log.warning(
                "a trainer reads %s_dataloader() without its data module: %s will not run. Give it the data module, such "
                "as trainer.fit(model, datamodule=data); or call data.transform(batch) in the step",
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


def _restored(trainer: L.Trainer | None, start: dict[str, Any] | None) -> TrainingPosition:
    position = TrainingPosition()
    position.trainer, position._start = trainer, start
    return position


def _runs(trainer: L.Trainer) -> bool:
    return trainer.state.status == TrainerStatus.RUNNING


def _converts(trainer: L.Trainer) -> bool:
    """Whether a trainer's precision changes the types of a batch."""
    return type(trainer.precision_plugin).convert_input is not Precision.convert_input
