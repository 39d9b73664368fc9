"""Training speed in cutouts per second."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

__all__ = ["Throughput"]


class Throughput(Callback):
    """Measure targets per second of the training loop, without the time between epochs."""

    def __init__(self) -> None:
        self.targets, self.seconds = 0, 0.0
        self._mark = 0.0

    @property
    def cutouts_per_second(self) -> float:
        """Targets per second over all training epochs."""
        return self.targets / self.seconds if self.seconds else 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the timer: Lightning does not call ``on_train_epoch_start`` if it resumes within an epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Start the timer."""
        self._mark = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Add the targets of the batch and the time since the last one, including waiting."""
        now = time.perf_counter()
        self.targets += len(batch["object_id"])
        self.seconds += now - self._mark
        self._mark = now
