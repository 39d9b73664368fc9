"""Checkpoints after each epoch, and after an error or Ctrl-C."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

__all__ = ["KeepLast", "KeepOnException"]


class KeepLast(Callback):
    """Save a checkpoint after each epoch, overwriting the previous one, to resume an interrupted training.

    Parameters
    ----------
    path
        Path of the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Save the checkpoint."""
        trainer.save_checkpoint(self.path)


class KeepOnException(Callback):
    """Save a checkpoint if training ends with an error or Ctrl-C; delete it when a later training finishes.

    `lightning.pytorch.callbacks.OnExceptionCheckpoint` is not used: it makes ``Trainer.fit`` resume from its file, whatever
    ``ckpt_path`` is.

    Parameters
    ----------
    path
        Path of the checkpoint.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Save the checkpoint if at least one step was trained."""
        if trainer.state.fn == TrainerFn.FITTING and trainer.global_step:
            trainer.save_checkpoint(self.path)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Delete the checkpoint of an earlier run."""
        trainer.strategy.remove_checkpoint(self.path)
