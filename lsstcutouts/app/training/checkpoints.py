"""Which checkpoint a training resumes from."""

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from ...errors import ConfigurationError
from .training_result import shown_path

__all__ = ["LAST", "SameCheckpoint", "checkpoint_to_resume", "explain_interruption", "explain_state_mismatch"]

LAST = "last.ckpt"
"""File of the checkpoint after each epoch."""

_OTHERS = ("hpc_ckpt_*.ckpt", "checkpoints/on_exception*.ckpt", "checkpoints/step-*.ckpt")
"""Files that Lightning writes, also in the middle of an epoch: in a Slurm job whose time is nearly over, and by ``callbacks=checkpoints``."""


def checkpoint_to_resume(resume: str | None, output: Path) -> Path | None:
    """Return the checkpoint to resume from, None to begin.

    Parameters
    ----------
    resume
        A file; ``"auto"`` for the newest in ``output``, if there is one: ``last.ckpt``, Slurm's ``hpc_ckpt_*.ckpt``, and in
        ``checkpoints`` those of an interruption or of every so many steps.
    output
        Folder of the run.

    Raises
    ------
    ConfigurationError
        If a file is named that is not there.
    """
    if resume == "auto":
        there = [path for pattern in (LAST, *_OTHERS) for path in output.glob(pattern) if path.is_file()]
        return max(there, key=lambda path: path.stat().st_mtime_ns, default=None)
    if resume is not None and not Path(resume).is_file():
        raise ConfigurationError(f"resume={resume!r}: there is no such checkpoint")
    return None if resume is None else Path(resume)


@contextmanager
def explain_interruption(trainer: L.Trainer, output: Path, resumed: Path | None) -> Iterator[None]:
    """Say at Ctrl-C which checkpoint was kept and how to continue.

    Raises
    ------
    KeyboardInterrupt
        With these words.
    """
    start = time.time()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt(_kept(trainer, output, resumed, start)) from None
    finally:
        # Lightning ignores further signals from the first one on, and leaves it at that.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


def _kept(trainer: L.Trainer, output: Path, resumed: Path | None, start: float) -> str:
    during = f"in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
    kept = checkpoint_to_resume("auto", output)
    if kept is not None and kept.stat().st_mtime >= start - 2:  # file systems keep whole seconds, or less
        return f"{during}; kept: {shown_path(str(kept))}. The same command with resume=auto continues from it"
    if resumed is not None:
        return f"{during}; no new checkpoint since {resumed}. The same command continues from it again"
    return (
        f"{during}; no checkpoint was kept, as last.ckpt is written at the end of each epoch. "
        "callbacks=[default,checkpoints] keeps one at Ctrl-C, too"
    )


@contextmanager
def explain_state_mismatch(where: str) -> Iterator[None]:
    """Say in two lines that a checkpoint is of another network, or of another optimizer.

    Parameters
    ----------
    where
        Setting and file of the checkpoint.

    Raises
    ------
    ConfigurationError
        Instead of the list of all its tensors.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = str(error)
        if not text.startswith(("Error(s) in loading state_dict", "loaded state dict")):
            raise
        raise ConfigurationError(
            f"{where} is of another network or optimizer than this one: {_difference(text)}; leave model=... and optimizer=... "
            "out, to take those of the checkpoint, or give them as in the training"
        ) from error


def _difference(text: str) -> str:
    """Return the first difference of torch's list of all."""
    shape = r"torch\.Size\((\[[\d, ]*\])\)"
    if found := re.search(rf"size mismatch for ([\w.]+): .*?{shape}.*?{shape}", text):
        return f"{found[1]} has the shape {found[2]} in the checkpoint and {found[3]} here"
    if found := re.search(r'(Missing|Unexpected) key\(s\) in state_dict: "([^"]+)"', text):
        return f"{found[2]} is only {'here' if found[1] == 'Missing' else 'in the checkpoint'}"
    return text.splitlines()[0]


class SameCheckpoint(Callback):
    """Ends a training at once whose ranks do not all resume from a checkpoint, or all begin.

    Lightning copies the weights of the first rank to the others, but each would have a place of its own in the epoch.

    Parameters
    ----------
    checkpoint
        What this rank resumes from.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Compare.

        Raises
        ------
        ConfigurationError
            On every rank, if they differ.
        """
        if stage != "fit" or trainer.world_size == 1:
            return
        mine = torch.tensor(float(self.checkpoint is not None), device=trainer.strategy.root_device)
        found = round(float(trainer.strategy.reduce(mine, reduce_op="sum")))
        if found not in {0, trainer.world_size}:
            raise ConfigurationError(
                f"{found} of {trainer.world_size} ranks find a checkpoint to resume from; output= must be a folder that all "
                f"nodes see (this rank: {self.checkpoint})"
            )
