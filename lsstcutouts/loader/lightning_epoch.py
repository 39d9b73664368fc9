"""What Lightning tells a loader: the trainer's epoch, and how far its training is."""

import logging
import sys
import weakref
from typing import Any

from torch.utils.data import SequentialSampler

__all__ = ["EpochSampler", "position_of_training"]

_log = logging.getLogger(__name__)

_CASTS_POSITIONS = {"bf16-true", "16-true"}
"""Lightning's precisions that convert every float of a batch to 16 bits."""


class EpochSampler(SequentialSampler):
    """Hears which epoch a trainer is in: Lightning tells it to the sampler of a loader.

    It is a `SequentialSampler`, or Lightning would make another loader to switch off shuffling for ``overfit_batches``.
    """

    def __init__(self, loader: Any) -> None:
        super().__init__(loader.dataset)
        self._loader = weakref.ref(loader)
        self._said = False

    def set_epoch(self, epoch: int) -> None:
        """Let the loader's next pass be the trainer's epoch."""
        loader, caller = self._loader(), sys._getframe(1).f_back  # who calls Lightning's function that calls this
        if loader is None:
            return
        loop: Any = None if caller is None else caller.f_locals.get("self")
        if hasattr(loop, "epoch_loop"):
            loader.fit_loop = weakref.ref(loop)
            self._check_precision(loop.trainer)
        # Fabric tells, too, and has no data modules.
        loader.told(epoch, by_trainer="pytorch" in (caller.f_globals["__name__"] if caller else ""))

    def _check_precision(self, trainer: Any) -> None:
        """Say once that positions are lost: Lightning asks only a data module what to keep."""
        if trainer.precision in _CASTS_POSITIONS and trainer.datamodule is None and not self._said:
            self._said = True
            _log.warning(
                "precision=%r converts ra, dec and wcs of the batch to 16 bits, so that positions are lost; with the data "
                "module, trainer.fit(model, datamodule=data), they keep float64",
                trainer.precision,
            )


def position_of_training(fit_loop: Any, loader: Any, epoch: int, done: int, *, ahead: int = 0) -> tuple[int, int]:
    """Return how far Lightning's training is, from how far its loader is.

    Parameters
    ----------
    fit_loop
        Of the trainer.
    loader, epoch, done
        The loader and its position.
    ahead
        Batches that were fetched and are not on the device: Lightning does not count them yet.
    """
    progress = fit_loop.epoch_loop.batch_progress.current
    # A batch that was fetched when an exception or a signal came was not trained on.
    done = max(0, done - ahead - max(0, progress.ready - getattr(progress, "processed", progress.ready)))
    # With limit_train_batches an epoch is over before the loader's.
    return (epoch, done) if fit_loop.max_batches >= len(loader) or done < fit_loop.max_batches else (epoch + 1, 0)
