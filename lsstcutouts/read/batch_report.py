"""What happened to the targets of one batch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BatchReport", "Failure"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A file, or a part of one, that cannot be read.

    Attributes
    ----------
    uri, tract, patch, band
        Which file.
    plane
        Which plane of it; empty where the file as a whole cannot be read.
    kind
        Name of the exception.
    cause
        Its message.
    transient
        Whether the next attempt may succeed.
    """

    uri: str
    tract: int
    patch: int
    band: str
    plane: str
    kind: str
    cause: str
    transient: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class BatchReport:
    """What happened to ``n`` targets; travels beside their batch.

    Attributes
    ----------
    targets
        ``(n,)`` numbers in the plan.
    outcome
        ``(n,)`` values of `Outcome`.
    quality
        ``(n, B)`` bits of `Quality`.
    failures
        What could not be read, each with the places in ``targets`` that lost pixels to it.
    """

    targets: NDArray[np.int64]
    outcome: NDArray[np.uint8]
    quality: NDArray[np.int32]
    failures: tuple[tuple[Failure, tuple[int, ...]], ...] = ()

    @classmethod
    def empty(cls, bands: int) -> "BatchReport":
        """Return the report of no target."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros((0, bands), np.int32))
