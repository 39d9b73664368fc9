"""What Lightning says about every loader like ours and need not, and what it does not say."""

import warnings
from collections.abc import Iterable

import lightning as L

from ...errors import ConfigurationError

__all__ = ["check_monitors", "quieten_lightning"]

_HINTS: Iterable[str] = (
    # The loader's length is exact on every rank and for any number of workers: batches are assigned by number.
    r".*`IterableDataset` has `__len__` defined.*",
    # Threads inside the process feed the device; worker processes would be slower.
    r".*does not have many workers.*",
)


def quieten_lightning() -> None:
    """Hide two hints of Lightning that would mislead here."""
    for message in _HINTS:
        warnings.filterwarnings("ignore", message=message)


def check_monitors(trainer: L.Trainer, reason: str) -> None:
    """Refuse callbacks and schedules that wait for a metric of a validation that there is not.

    Raises
    ------
    ConfigurationError
        With the reason why there is none.
    """
    for one in (*getattr(trainer, "callbacks", ()), *trainer.lr_scheduler_configs):
        metric = getattr(one, "monitor", None)
        if isinstance(metric, str) and metric.startswith("val"):
            name = type(one).__name__
            raise ConfigurationError(
                f"{name} monitors {metric!r}, but there is no validation: {reason}; give val a share, or leave {name} out"
            )
