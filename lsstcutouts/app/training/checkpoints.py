"""Chooses the checkpoint that a training resumes from, and explains interruptions and mismatches."""

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
"""Checkpoints that may be of the middle of an epoch: of a Slurm job before its time limit, and of ``callbacks=checkpoints``."""


def checkpoint_to_resume(resume: str | None, output: Path) -> Path | None:
    """Return the checkpoint to resume from; None for a new training.

    Parameters
    ----------
    resume
        A file; or ``"auto"`` for the newest in ``output``, if there is one: ``last.ckpt``, Slurm's ``hpc_ckpt_*.ckpt``, and
        the files in ``checkpoints`` that were written at an interruption or after a number of steps.
    output
        Folder of the run.

    Raises
    ------
    ConfigurationError
        If the file does not exist.
    """
    if resume == "auto":
        found = [path for pattern in (LAST, *_OTHERS) for path in output.glob(pattern) if path.is_file()]
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    if resume is not None and not Path(resume).is_file():
        raise ConfigurationError(f"resume={resume!r}: this file does not exist; check the path, or use resume=auto")
    return None if resume is None else Path(resume)


@contextmanager
def explain_interruption(trainer: L.Trainer, output: Path, resumed: Path | None) -> Iterator[None]:
    """Add to the ``KeyboardInterrupt`` of Ctrl-C which checkpoint was kept and how to resume.

    Raises
    ------
    KeyboardInterrupt
        With this message.
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
        # Lightning ignores further signals after the first one and does not restore the handler.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


def _kept(trainer: L.Trainer, output: Path, resumed: Path | None, start: float) -> str:
    during = f"in epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
    kept = checkpoint_to_resume("auto", output)
    if kept is not None and kept.stat().st_mtime >= start - 2:  # the time resolution of file systems can be 2 seconds
        return f"{during}; kept: {shown_path(str(kept))}. The same command with resume=auto resumes from it"
    if resumed is not None:
        return f"{during}; no new checkpoint since {resumed}. The same command resumes from it again"
    return (
        f"{during}; no checkpoint was kept: last.ckpt is written at the end of each epoch. "
        "With callbacks=[default,checkpoints] one is also written at Ctrl-C"
    )


@contextmanager
def explain_state_mismatch(where: str) -> Iterator[None]:
    """Explain that a checkpoint belongs to another network or optimizer.

    Parameters
    ----------
    where
        Setting and file of the checkpoint.

    Raises
    ------
    ConfigurationError
        Instead of torch's list of all tensors; it names the first difference.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = str(error)
        if not text.startswith(("Error(s) in loading state_dict", "loaded state dict")):
            raise
        raise ConfigurationError(
            f"{where} belongs to another network or optimizer: {_difference(text)}; remove model=... and "
            "optimizer=... to use those of the checkpoint, or give them as in the training"
        ) from error


def _difference(text: str) -> str:
    """Return the first difference in torch's message."""
    shape = r"torch\.Size\((\[[\d, ]*\])\)"
    if found := re.search(rf"size mismatch for ([\w.]+): .*?{shape}.*?{shape}", text):
        return f"{found[1]} has the shape {found[2]} in the checkpoint and {found[3]} here"
    if found := re.search(r'(Missing|Unexpected) key\(s\) in state_dict: "([^"]+)"', text):
        return f"{found[2]} is only {'here' if found[1] == 'Missing' else 'in the checkpoint'}"
    return text.splitlines()[0]


class SameCheckpoint(Callback):
    """Stops a training at its start unless all ranks resume from a checkpoint, or none does.

    Lightning copies the weights of the first rank to the others, but the ranks would be at different positions of the epoch.

    Parameters
    ----------
    checkpoint
        Checkpoint of this rank; None for a new training.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Compare the ranks.

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
                f"nodes share (this rank: {self.checkpoint})"
            )
