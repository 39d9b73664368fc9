"""A checkpoint after each epoch."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

__all__ = ["KeepLast"]


class KeepLast(Callback):
    """Write a checkpoint after each epoch, over the one before, so that an interrupted training can go on.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Write it."""
        trainer.save_checkpoint(self.path)
