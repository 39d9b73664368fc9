"""What a loader learns from Lightning: the trainer's epoch, and the position of its training."""

import logging
import sys
import weakref
from dataclasses import dataclass
from typing import Any

from torch.utils.data import SequentialSampler

from ..order.world import Position

__all__ = ["EpochSampler", "TrainerEpochs", "training_position"]

_log = logging.getLogger(__name__)

_CASTS_POSITIONS = {"bf16-true", "16-true"}
"""Lightning's precisions that convert every float of a batch to 16 bits."""


@dataclass(slots=True)
class TrainerEpochs:
    """How the epochs of a loader relate to those of the Lightning trainer that reads it.

    Attributes
    ----------
    used
        Whether a trainer has set the epoch.
    offset
        Epoch of the loader minus epoch of the trainer.
    extra
        Passes that the trainer has begun beyond the one of its epoch: it reads a short loader more than once.
    resumed
        The trainer's epoch at a position that was loaded, counted as the loader counts; None after the first batch.
    """

    used: bool = False
    offset: int = 0
    extra: int = 0
    resumed: int | None = None


class EpochSampler(SequentialSampler):
    """Receives the epoch of a trainer: Lightning calls ``set_epoch`` of the sampler of a loader.

    It is a `SequentialSampler`, or Lightning would make another loader to switch off shuffling for ``overfit_batches``.
    """

    def __init__(self, loader: Any) -> None:
        super().__init__(loader.dataset)
        self._loader = weakref.ref(loader)
        self._warned = False

    def set_epoch(self, epoch: int) -> None:
        """Let the loader's next pass be the trainer's epoch."""
        loader, caller = self._loader(), sys._getframe(1).f_back  # the caller of Lightning's function that calls this
        if loader is None:
            return
        loop: Any = None if caller is None else caller.f_locals.get("self")
        if hasattr(loop, "epoch_loop"):
            loader.fit_loop = weakref.ref(loop)
            self._check_precision(loop.trainer)
        # Fabric calls this, too, and has no data modules.
        loader.set_trainer_epoch(epoch, by_trainer="pytorch" in (caller.f_globals["__name__"] if caller else ""))

    def _check_precision(self, trainer: Any) -> None:
        """Warn once if sky positions become inaccurate: Lightning lets only a data module keep their precision."""
        if trainer.precision in _CASTS_POSITIONS and trainer.datamodule is None and not self._warned:
            self._warned = True
            _log.warning(
                "precision=%r converts ra, dec and wcs of the batch to 16 bits, so that positions become inaccurate; with "
                "trainer.fit(model, datamodule=data) they remain float64",
                trainer.precision,
            )


def training_position(fit_loop: Any, loader: Any, position: Position, *, ahead: int = 0) -> Position:
    """Return the position of Lightning's training, from that of its loader.

    Parameters
    ----------
    fit_loop
        Of the trainer.
    loader, position
        The loader and its position.
    ahead
        Batches that were fetched and are not on the device: Lightning does not count them yet.
    """
    progress = fit_loop.epoch_loop.batch_progress.current
    # A batch that was fetched before an exception or a signal was not trained on.
    untrained = ahead + max(0, progress.ready - getattr(progress, "processed", progress.ready))
    batch = max(0, position.batch - untrained)
    # With limit_train_batches an epoch ends before that of the loader.
    ended = batch >= fit_loop.max_batches and fit_loop.max_batches < len(loader)
    return Position(position.epoch + 1) if ended else position._replace(batch=batch)
