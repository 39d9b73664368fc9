"""Worker processes that end unexpectedly: the message for the user, and how a failed pass ends its workers."""

import atexit
import signal
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from threading import Thread, Timer
from typing import Any

from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..errors import LsstCutoutsError, WorkerError

__all__ = ["WorkerIterator", "any_dead", "dismiss", "dismiss_with", "worker_error", "workers_of"]

_PATIENCE, _POLL = 3.0, 0.02
"""Seconds to wait for the end of a worker that broke a connection, and between two checks."""

_GRACE = 1.0
"""Seconds for workers to end by themselves. torch gives five to each, one after the other, and a worker that waits for bytes over a
network needs them all."""

_NO_MEMORY = (
    "The most frequent cause is that memory ran out, which the log of the system (`dmesg`) or of the job shows. Reduce "
    "cache_bytes, batch_size, num_workers or prefetch_factor, or use num_workers=0, which reads with threads in one process"
)
_CRASH = "Compiled code crashed; run with num_workers=0 under `python -X faulthandler` to see where"
_ADVICE = {
    signal.SIGKILL: _NO_MEMORY,
    signal.SIGSEGV: _CRASH,
    signal.SIGABRT: _CRASH,
    signal.SIGFPE: _CRASH,
    signal.SIGILL: _CRASH,
    signal.SIGBUS: "The most frequent cause is that the shared memory (/dev/shm) is full; enlarge it (--shm-size of a container), reduce "
    "prefetch_factor, num_workers or batch_size, or use num_workers=0, which needs none",
    signal.SIGTERM: "It was asked to end, for example by a scheduler at its time limit or by `kill`",
}
_EXITED = (
    "Its output on standard error shows the cause. A script that starts worker processes must have its loop below "
    '`if __name__ == "__main__":`'
)
_LEFT = "It was interrupted (Ctrl-C reaches worker processes, too) or ended by itself"


class WorkerIterator(_MultiProcessingDataLoaderIter):
    """torch's iterator of worker processes, which ends those that do not end soon, together: Ctrl-C takes a second or two."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        # torch sets this last, and needs it to end workers when Ctrl-C comes while they are started.
        self._workers_status = [True] * loader.num_workers
        super().__init__(loader)

    def _shutdown_workers(self) -> None:
        if getattr(self, "_shutdown", True):  # again, or after an error while the workers were started
            super()._shutdown_workers()
            return
        late = Timer(_GRACE, self._terminate)
        late.daemon = True
        with suppress(RuntimeError):  # at the very end of the program no thread can start
            late.start()
        try:
            super()._shutdown_workers()
        finally:
            late.cancel()

    def _terminate(self) -> None:
        if self._worker_pids_set:  # torch's handler of SIGCHLD would raise in the main thread, whatever that does now
            self._worker_pids_set = False
            _remove_worker_pids(id(self))
        for worker in self._workers:
            worker.terminate()


def workers_of(batches: Any) -> list[BaseProcess]:
    """Return the worker processes of an iterator of a `DataLoader`; none if threads read."""
    return list(getattr(batches, "_workers", ()))


def any_dead(batches: Any) -> bool:
    """Return whether a worker process of an iterator has ended, so that the iterator cannot be used for another pass."""
    return any(not worker.is_alive() for worker in workers_of(batches))


def dismiss(batches: Any) -> None:
    """End the worker processes of an iterator now, not only when the last traceback that holds it is freed."""
    shutdown = getattr(batches, "_shutdown_workers", None)
    if shutdown is not None:
        # torch's handler of SIGCHLD raises again, at any point of the program, that a worker was killed.
        with suppress(RuntimeError):
            shutdown()
    getattr(batches, "_owner_is_gone", bool)()  # ends the thread of `dismiss_with`


def dismiss_with(owner: object, batches: Any) -> None:
    """End the worker processes behind an iterator when ``owner`` is gone, in a thread of its own.

    torch ends them in ``__del__``: it waits up to five seconds for each, and takes locks of their queues, in whatever
    thread the garbage collector runs and inside whatever block that has locked. So a thread keeps the iterator out of its
    reach until it has ended them.
    """
    end: SimpleQueue[None] = SimpleQueue()

    def keep() -> None:
        end.get()
        dismiss(batches)
        atexit.unregister(finish)

    def finish() -> None:
        end.put(None)
        thread.join()

    batches._owner_is_gone = weakref.finalize(owner, end.put, None)
    batches._owner_is_gone.atexit = False
    thread = Thread(target=keep, name="lsstcutouts-workers", daemon=True)
    thread.start()
    atexit.register(finish)


def worker_error(error: BaseException, batches: Any, waited_for: str) -> WorkerError | None:
    """Return what to raise instead of ``error`` if a worker process that ended caused it, else None.

    A worker that is killed shows as torch's RuntimeError, or as a connection that breaks while a batch is received.

    Parameters
    ----------
    error
        What the iterator raised.
    batches
        The iterator.
    waited_for
        The batch that the loop waited for.
    """
    if isinstance(error, LsstCutoutsError) or not isinstance(error, RuntimeError | OSError | EOFError):
        return None
    workers = workers_of(batches)
    left = "exited unexpectedly" in str(error)
    broken = left or "killed by signal" in str(error) or not isinstance(error, RuntimeError)
    if not workers or not broken:
        return None
    for number, worker in enumerate(_ended(workers)):
        if worker is not None and (worker.exitcode or left):
            how, advice = _ending(worker.exitcode or 0)
            whom = f"worker process {number} of {len(workers)} (pid {worker.pid})"
            return WorkerError(f"{whom} {how} while the loop waited for {waited_for}. {advice}")
    return None


def _ended(workers: Sequence[BaseProcess]) -> list[BaseProcess | None]:
    """Return the workers that have ended, and None for each other one; wait for one that is about to end."""
    end = time.monotonic() + _PATIENCE
    while all(worker.is_alive() for worker in workers) and time.monotonic() < end:
        # torch's handler of SIGCHLD raises in the middle of this, before the worker counts as ended.
        with suppress(RuntimeError):
            wait([worker.sentinel for worker in workers], _POLL)
            time.sleep(_POLL)
    return [None if worker.is_alive() else worker for worker in workers]


def _ending(code: int) -> tuple[str, str]:
    """Return how a process with this exit code ended, and advice."""
    if code > 0:
        return f"ended with exit code {code}", _EXITED
    if code == 0:
        return "ended", _LEFT
    try:
        number = signal.Signals(-code)
    except ValueError:  # a real-time signal
        return f"was killed by signal {-code}", _CRASH
    return f"was killed by {number.name}", _ADVICE.get(number, "Something sent it this signal")
