"""Checkpoints after each epoch, and at the moment of an error or Ctrl-C."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

__all__ = ["KeepLast", "KeepOnException"]


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


class KeepOnException(Callback):
    """Write a checkpoint when a training ends by an error or Ctrl-C; remove it when a later one comes to its end.

    Lightning's own callback of this purpose makes ``Trainer.fit`` resume from its file unasked, whatever ``ckpt_path`` is.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Write it, if anything has been trained."""
        if trainer.state.fn == TrainerFn.FITTING and trainer.global_step:
            trainer.save_checkpoint(self.path)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Remove the one of an earlier run."""
        trainer.strategy.remove_checkpoint(self.path)
