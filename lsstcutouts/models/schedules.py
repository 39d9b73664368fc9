"""Learning rates as functions of the share of a training that is done.

Torch's own schedules keep the number of steps in the checkpoint; these ask for it anew, so that a training can be resumed
and lengthened.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import ConfigurationError

__all__ = ["Constant", "Cosine", "LearningRateSchedule", "OneCycle"]


class LearningRateSchedule(LRScheduler):
    """A schedule that is stepped after each batch and follows `factor` of the share of all steps that is done.

    Parameters
    ----------
    optimizer
        Its learning rates are the highest ones.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._steps: Callable[[], float] | None = None
        super().__init__(optimizer)

    def set_total_steps(self, steps: Callable[[], float]) -> None:
        """Say where to ask for the number of all steps; until then the first rate holds."""
        self._steps = steps

    def factor(self, done: float) -> float:
        """Return the share of the highest rate when a share of the training, 0..1, is done."""
        raise NotImplementedError  # each kind of schedule is its own curve

    def get_lr(self) -> list[float | Tensor]:
        """Return the rates of the parameter groups."""
        steps = self._steps() if self._steps is not None else math.inf
        factor = self.factor(min(1.0, self.last_epoch / max(1.0, steps)))
        return [float(rate) * factor for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return plain values only: the place, and not where to ask for the steps."""
        return {name: value for name, value in super().state_dict().items() if name != "_steps"}


class OneCycle(LearningRateSchedule):
    """A rise along a line, then half a cosine to zero (Smith & Topin 2019, SPIE 11006).

    Parameters
    ----------
    optimizer
        Its learning rates are the highest ones.
    warmup
        Share of all steps in which the rate rises, in (0, 1).
    start
        Share of the highest rate at the first step.
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.25, start: float = 0.04) -> None:
        if not 0 < warmup < 1 or not 0 <= start <= 1:
            raise ConfigurationError(f"warmup must lie in (0, 1) and start in [0, 1], got {warmup} and {start}")
        self.warmup, self.start = warmup, start
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        """Return the share of the highest rate."""
        if done < self.warmup:
            return self.start + (1 - self.start) * done / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


class Cosine(LearningRateSchedule):
    """Half a cosine from the highest rate down (Loshchilov & Hutter 2017, ICLR).

    Parameters
    ----------
    optimizer
        Its learning rates are the highest ones.
    end
        Share of the highest rate at the last step.
    """

    def __init__(self, optimizer: Optimizer, end: float = 0.0) -> None:
        if not 0 <= end <= 1:
            raise ConfigurationError(f"end must lie in [0, 1], got {end}")
        self.end = end
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        """Return the share of the highest rate."""
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * done))


class Constant(LearningRateSchedule):
    """The same rate in all steps."""

    def factor(self, done: float) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0
