"""What Lightning says about every loader like ours, and need not."""

import warnings
from collections.abc import Iterable

__all__ = ["quieten_lightning"]

_HINTS: Iterable[str] = (
    # The loader's length is exact on every rank and for any number of workers: batches are dealt by number.
    r".*`IterableDataset` has `__len__` defined.*",
    # Threads inside the process feed the device; worker processes would be slower.
    r".*does not have many workers.*",
)


def quieten_lightning() -> None:
    """Hide two hints of Lightning that would mislead here."""
    for message in _HINTS:
        warnings.filterwarnings("ignore", message=message)
