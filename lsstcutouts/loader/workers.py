"""Worker processes: what they import before they start, and what they tell the main process."""

import sys
from dataclasses import dataclass
from multiprocessing import forkserver, get_context

from ..read.batch_report import Account
from ..read.cache.stats import CacheStats

__all__ = ["Parcel", "WorkerCaches", "preload_fork_server"]

_PRELOADED = ("torch", "lightning.pytorch", "lsstcutouts.loader.loader", "lsstcutouts.loader.datamodule.module")
"""Modules that worker processes need, or that a script imports which they import: 5 CPU seconds for each otherwise."""

_FIRST = "lsstcutouts.loader.fork_server"


def preload_fork_server() -> None:
    """Let the fork server, when it starts, import what this process has imported of what workers need.

    What somebody has set for it stays, and a server that runs already stays as it is.
    """
    # There is no public way to ask what is set; by default it is the script.
    wanted = list(getattr(forkserver._forkserver, "_preload_modules", ["__main__"]))
    missing = [name for name in _PRELOADED if name in sys.modules and name not in wanted]
    if missing:
        get_context("forkserver").set_forkserver_preload([_FIRST, *missing, *wanted])


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """What a batch from a worker process carries beside its tensors.

    Attributes
    ----------
    account
        What happened to its targets.
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
        """Record that every process so far has ended."""
        self._past = self.total().past
        self._latest.clear()

    def total(self) -> CacheStats:
        """Return what they have done and hold, all together."""
        return sum(self._latest.values(), self._past)
