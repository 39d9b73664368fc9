"""What worker processes tell the main process."""

from dataclasses import dataclass

from ..cache import CacheStats
from ..cutout import Account

__all__ = ["Parcel", "WorkerCaches"]


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """What a batch from a worker process carries beside its tensors.

    Attributes
    ----------
    account
        What became of its targets.
    stats
        What the worker's cache had done and held when the batch was ready.
    process
        Id of the worker process.
    """

    account: Account
    stats: CacheStats
    process: int


class WorkerCaches:
    """The latest figures of the caches of a loader's worker processes, those that have ended included."""

    def __init__(self) -> None:
        self._latest: dict[int, CacheStats] = {}
        self._past = CacheStats()

    def note(self, parcel: Parcel) -> None:
        """Take over the figures that came with a batch."""
        self._latest[parcel.process] = parcel.stats

    def retire(self) -> None:
        """Take note that every process so far has ended."""
        self._past = self.total().past
        self._latest.clear()

    def total(self) -> CacheStats:
        """Return what they have done and hold, all together."""
        return sum(self._latest.values(), self._past)
