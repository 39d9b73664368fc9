"""Where partitions are worked on: in this process, one after the other, or by the workers of Dask."""

import itertools
import logging
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from ..catalog.partitions import Partition
from ..errors import (
    AuthenticationError,
    ConfigurationError,
    DependencyError,
    LsstCutoutsError,
    RepositoryNotFoundError,
    WorkerError,
    WriteError,
)
from ..source.control_groups import usable_cores
from .finished import PartitionResult

__all__ = ["ENGINES", "dask_client", "run_here", "run_on_dask", "worker_number", "workers_of_a_node"]

type Work = Callable[[Partition], PartitionResult]

ENGINES = ("threads", "dask")
"""``"threads"``: this process with its decoding threads; ``"dask"``: workers of ``dask.distributed``."""

_ALLOWED_FAILURES = 100
"""Workers that may die while they hold the same partition: on a cluster whole nodes are taken away; Dask's default is 3."""

_AHEAD = 4
"""Partitions per thread of the workers that the scheduler knows: all of a large catalog would fill its memory."""

_LOOK = 5.0
"""Seconds after which the workers are counted again: those of a cluster come and go."""

_CLOSE = 5.0
"""Seconds to take leave of a scheduler, which may be lost; Dask's default is a minute."""

_LOST = "the scheduler of Dask was lost, or it cancelled the partitions; give the same command again to continue"

_ENDS_THE_RUN = (AuthenticationError, DependencyError, RepositoryNotFoundError, WriteError)
"""Errors that every other partition would have, too."""

_log = logging.getLogger(__name__)


def run_here(work: Work, partitions: Iterable[Partition]) -> Generator[PartitionResult]:
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


def run_on_dask(work: Work, partitions: Iterable[Partition], client: Any) -> Generator[PartitionResult]:
    """Yield the result of each partition as workers finish it.

    Partitions are submitted some at a time, more of them when workers join. A partition whose worker dies is given to another one by
    Dask.

    Raises
    ------
    LsstCutoutsError
        As `run_here`; also if the scheduler is lost.
    """
    from distributed import CancelledError, as_completed

    # Two runs on one scheduler may have the same cells: equal keys would make the second one wait for the results of the first.
    upcoming, begun, run = iter(partitions), dict[str, Partition](), uuid4().hex
    running = as_completed(loop=client.loop, with_results=True, raise_errors=False)
    looked, most, lost = -_LOOK, 0, False
    try:
        client.run_on_scheduler(_allow_failures)
        while True:
            if monotonic() - looked > _LOOK:
                looked, most = monotonic(), _AHEAD * max(1, sum(client.nthreads().values()))
            for partition in itertools.islice(upcoming, max(0, most - len(begun))):
                future = client.submit(work, partition, pure=False, key=f"{type(work).__name__}-{run}-{partition.cell}")
                begun[future.key] = partition
                running.add(future)
            if not begun:
                return
            for future, found in running.next_batch():
                if isinstance(found, CancelledError):
                    lost = True
                    raise WorkerError(_LOST)
                partition = begun.pop(future.key)
                future.release()
                yield found if isinstance(found, PartitionResult) else _failed(partition, _error_of(found))
    except (OSError, RuntimeError) as error:
        if isinstance(error, LsstCutoutsError) or client.status == "running":
            raise
        lost = True
        raise WorkerError(_LOST) from error
    finally:
        if not lost:
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
        try:
            client = Client(scheduler, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"scheduler={scheduler}: no scheduler of Dask answers: {error}; check the address and that it runs"
            ) from error
        try:
            yield client
        finally:
            with suppress(OSError, RuntimeError):  # also TimeoutError: the scheduler may be lost
                client.close(timeout=_CLOSE)
    else:
        count = workers or usable_cores()
        with (
            dask.config.set({"distributed.worker.daemon": False}),
            LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster, set_as_default=False) as client,
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


def workers_of_a_node(client: Any) -> int:
    """Return the largest number of workers that share the memory of a node; wait for the first one."""
    if not client.nthreads():
        _log.warning("no worker is connected to the scheduler of Dask yet: waiting for one")
        try:
            client.wait_for_workers(1)
        except (OSError, RuntimeError) as error:
            raise WorkerError(_LOST) from error
    hosts = [urlsplit(address).hostname for address in client.nthreads()]
    return max((hosts.count(host) for host in set(hosts)), default=1)


def _allow_failures(dask_scheduler: Any) -> None:
    dask_scheduler.allowed_failures = max(dask_scheduler.allowed_failures, _ALLOWED_FAILURES)


def _error_of(found: Any) -> BaseException:
    """Return the exception of a task: Dask gives it alone, or between its type and its traceback."""
    error: BaseException = found[1] if isinstance(found, tuple) else found
    return error


def _failed(partition: Partition, error: BaseException) -> PartitionResult:
    """Return the result of a partition that failed; raise what ends the run."""
    if isinstance(error, _ENDS_THE_RUN) or (isinstance(error, LsstCutoutsError) and isinstance(error, PermissionError)):
        raise error
    name = type(error).__name__
    text = str(error) if isinstance(error, LsstCutoutsError) else f"{name}: {error}"
    _log.warning("partition %s failed: %s", partition.cell, text)
    return PartitionResult(partition.cell.order, partition.cell.pixel, error=text or name)
