"""Worker processes: what they import before they start, and what they report to the main process."""

import os
import sys
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread

from ..read.batch_report import BatchReport
from ..read.cache.stats import CacheStats

__all__ = ["WorkerCaches", "WorkerReport", "end_with_main_process", "preload_fork_server"]

_PRELOADED = ("torch", "lightning.pytorch", "lsstcutouts.loader.loader", "lsstcutouts.loader.datamodule.module")
"""Modules that worker processes need, or that are imported by a script which they import. Loading them in the fork server saves
5 CPU seconds per worker."""

_FIRST = "lsstcutouts.loader.fork_server"


def preload_fork_server() -> None:
    """Let the fork server, when it starts, import those modules of `_PRELOADED` that this process has imported.

    Modules that were set before stay set, and a running server is not changed.
    """
    # There is no public way to read what is set; the default is the script.
    wanted = list(getattr(forkserver._forkserver, "_preload_modules", ["__main__"]))
    missing = [name for name in _PRELOADED if name in sys.modules and name not in wanted]
    if missing:
        get_context("forkserver").set_forkserver_preload([_FIRST, *missing, *wanted])


@cache
def end_with_main_process() -> None:
    """Let this worker process end when the main process does, even if that is killed.

    torch looks for another parent. But the parent is the fork server, which lives as long as its workers do.
    """
    if (main := parent_process()) is not None:
        Thread(target=_end_after, args=(main,), name="lsstcutouts-end", daemon=True).start()


def _end_after(main: BaseProcess) -> None:
    main.join()
    os._exit(1)  # the threads of the worker may wait for bytes


@dataclass(frozen=True, slots=True, eq=False)
class WorkerReport:
    """What a worker process reports with each batch.

    Attributes
    ----------
    batch_report
        What happened to the targets of the batch.
    stats
        Statistics of the worker's cache when the batch was ready.
    process
        Id of the worker process.
    """

    batch_report: BatchReport
    stats: CacheStats
    process: int


class WorkerCaches:
    """The latest statistics of the caches of a loader's worker processes, including processes that have ended."""

    def __init__(self) -> None:
        self._latest: dict[int, CacheStats] = {}
        self._past = CacheStats()

    def add(self, worker_report: WorkerReport) -> None:
        """Record the statistics that came with a batch."""
        self._latest[worker_report.process] = worker_report.stats

    def retire(self) -> None:
        """Record that every process so far has ended."""
        self._past = self.total().past
        self._latest.clear()

    def total(self) -> CacheStats:
        """Return the sum over all processes."""
        return sum(self._latest.values(), self._past)
