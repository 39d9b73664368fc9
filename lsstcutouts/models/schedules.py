"""Learning-rate schedules as functions of the fraction of training done.

The schedules of torch save the total number of steps in the checkpoint. These ask for it in each step, so a resumed
training can have more epochs.
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
    """Base class of the schedules: the rate is `factor` of the fraction of all steps done. Step it after each batch.

    Parameters
    ----------
    optimizer
        Optimizer whose learning rates are the highest rates of the schedule.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._steps: Callable[[], float] | None = None
        super().__init__(optimizer)

    def set_total_steps(self, steps: Callable[[], float]) -> None:
        """Set the function that returns the total number of steps; until then the rate is that of the first step."""
        self._steps = steps

    def factor(self, done: float) -> float:
        """Return the rate divided by the highest rate, when a fraction ``done`` in [0, 1] of the training is done."""
        raise NotImplementedError  # subclasses define the curve

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each parameter group, floats or scalar tensors."""
        steps = self._steps() if self._steps is not None else math.inf
        factor = self.factor(min(1.0, self.last_epoch / max(1.0, steps)))
        return [float(rate) * factor for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the function that returns the total number of steps."""
        return {name: value for name, value in super().state_dict().items() if name != "_steps"}


class OneCycle(LearningRateSchedule):
    """Linear warm-up, then half a cosine to zero (Smith & Topin 2019, SPIE 11006).

    Parameters
    ----------
    optimizer
        Optimizer whose learning rates are the highest rates of the schedule.
    warmup
        Fraction of all steps in which the rate rises, in (0, 1).
    start
        First rate divided by the highest rate.
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.25, start: float = 0.04) -> None:
        if not 0 < warmup < 1 or not 0 <= start <= 1:
            raise ConfigurationError(
                f"warmup must be in (0, 1) and start in [0, 1], got warmup={warmup} and start={start}"
            )
        self.warmup, self.start = warmup, start
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        """Return the rate divided by the highest rate."""
        if done < self.warmup:
            return self.start + (1 - self.start) * done / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


class Cosine(LearningRateSchedule):
    """Half a cosine, starting from the highest rate (Loshchilov & Hutter 2017, ICLR).

    Parameters
    ----------
    optimizer
        Optimizer whose learning rates are the highest rates of the schedule.
    end
        Last rate divided by the highest rate.
    """

    def __init__(self, optimizer: Optimizer, end: float = 0.0) -> None:
        if not 0 <= end <= 1:
            raise ConfigurationError(f"end must be in [0, 1], got {end}")
        self.end = end
        super().__init__(optimizer)

    def factor(self, done: float) -> float:
        """Return the rate divided by the highest rate."""
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * done))


class Constant(LearningRateSchedule):
    """A constant learning rate."""

    def factor(self, done: float) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0
