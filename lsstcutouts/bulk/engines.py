"""Where partitions are worked on: in this process, one after the other, or by the workers of Dask."""

import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..catalog.partitions import Partition
from ..errors import (
    AuthenticationError,
    ConfigurationError,
    DependencyError,
    LsstCutoutsError,
    RepositoryNotFoundError,
    WriteError,
)
from ..source.control_groups import usable_cores
from .finished import PartitionResult

__all__ = ["ENGINES", "dask_client", "run_here", "run_on_dask", "worker_number"]

type Work = Callable[[Partition], PartitionResult]

ENGINES = ("threads", "dask")
"""``"threads"``: this process with its decoding threads; ``"dask"``: workers of ``dask.distributed``."""

_ALLOWED_FAILURES = 100
"""Workers that may die while they hold the same partition: on a cluster whole nodes are taken away; Dask's default is 3."""

_AHEAD = 4
"""Partitions per worker that the scheduler knows: all of a large catalog would fill its memory."""

_ENDS_THE_RUN = (AuthenticationError, DependencyError, RepositoryNotFoundError, WriteError)
"""Errors that every other partition would have, too."""

_log = logging.getLogger(__name__)


def run_here(work: Work, partitions: Iterable[Partition]) -> Iterator[PartitionResult]:
    """Yield the result of each partition; one that fails has an ``error``.

    Raises
    ------
    LsstCutoutsError
        If the others would fail as well: no access, a full disk.
    """
    for partition in partitions:
        try:
            yield work(partition)
        except LsstCutoutsError as error:
            yield _failed(partition, error)


def run_on_dask(work: Work, partitions: Iterable[Partition], client: Any) -> Iterator[PartitionResult]:
    """Yield the result of each partition as workers finish it.

    Partitions are submitted some at a time. A partition whose worker dies is given to another one by Dask.

    Raises
    ------
    LsstCutoutsError
        As `run_here`; also if the scheduler is lost.
    """
    from distributed import as_completed

    upcoming = iter(partitions)
    begun = {}

    def submit(count: int) -> list[Any]:
        futures = []
        for partition in itertools.islice(upcoming, count):
            future = client.submit(work, partition, pure=False, key=f"{type(work).__name__}-{partition.cell}")
            begun[future.key] = partition
            futures.append(future)
        return futures

    client.run_on_scheduler(_allow_failures)
    running = as_completed(submit(_AHEAD * max(1, len(client.scheduler_info()["workers"]))))
    try:
        for future in running:
            partition = begun.pop(future.key)
            error = future.exception()
            if future.cancelled() or future.status == "lost":
                raise ConfigurationError("the scheduler of Dask was lost; give the same command again to continue")
            result = future.result() if error is None else _failed(partition, error)
            future.release()
            for more in submit(1):
                running.add(more)
            yield result
    finally:
        client.cancel(list(running.futures))


@contextmanager
def dask_client(scheduler: Any = None, workers: int | None = None) -> Iterator[Any]:
    """Yield a client: the one that is given, of the scheduler at an address, or of processes of this machine.

    Parameters
    ----------
    scheduler
        Address, a ``Client`` or a cluster such as ``SLURMCluster``; None starts a ``LocalCluster``.
    workers
        Processes of the ``LocalCluster``; by default one for each core.

    Raises
    ------
    DependencyError
        If ``dask.distributed`` is not installed.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise DependencyError(
            f"engine=dask needs a package that is not installed ({error}): pip install 'lsstcutouts[bulk]'"
        ) from error
    if isinstance(scheduler, Client):
        yield scheduler
    elif scheduler is not None:
        with Client(scheduler) as client:
            yield client
    else:
        count = workers or usable_cores()
        with (
            dask.config.set({"distributed.worker.daemon": False}),
            LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client


def worker_number() -> int:
    """Return the number of this worker of Dask among those of its node, from 0; 0 outside of Dask."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return 0
    try:
        own = distributed.get_worker().address
    except ValueError:  # no worker's thread
        return 0
    workers = distributed.get_client().scheduler_info()["workers"]
    node = workers[own]["host"]
    return sorted(address for address, one in workers.items() if one["host"] == node).index(own)


def _allow_failures(dask_scheduler: Any) -> None:
    dask_scheduler.allowed_failures = max(dask_scheduler.allowed_failures, _ALLOWED_FAILURES)


def _failed(partition: Partition, error: BaseException) -> PartitionResult:
    """Return the result of a partition that failed; raise what ends the run."""
    if isinstance(error, _ENDS_THE_RUN) or (isinstance(error, LsstCutoutsError) and isinstance(error, PermissionError)):
        raise error
    name = type(error).__name__
    text = str(error) if isinstance(error, LsstCutoutsError) else f"{name}: {error}"
    _log.warning("partition %s failed: %s", partition.cell, text)
    return PartitionResult(partition.cell.order, partition.cell.pixel, error=text or name)
