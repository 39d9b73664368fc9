"""Worker processes that die: what the user is told, and how a pass that failed ends."""

import atexit
import signal
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from threading import Thread
from typing import Any

from ..errors import LsstCutoutsError, WorkerError

__all__ = ["any_dead", "dismiss", "dismiss_with", "worker_error", "workers_of"]

_PATIENCE, _POLL = 3.0, 0.02
"""Seconds in which a worker that broke a connection is seen to have ended, and between two looks."""

_NO_MEMORY = (
    "Most often the system kills for want of memory: its log (`dmesg`), or that of the job, says so. A smaller cache_bytes, "
    "batch_size, num_workers or prefetch_factor takes less; num_workers=0 reads with threads in one process"
)
_CRASH = "This is a crash in compiled code; num_workers=0 under `python -X faulthandler` shows where"
_ADVICE = {
    signal.SIGKILL: _NO_MEMORY,
    signal.SIGSEGV: _CRASH,
    signal.SIGABRT: _CRASH,
    signal.SIGFPE: _CRASH,
    signal.SIGILL: _CRASH,
    signal.SIGBUS: "Most often the shared memory (/dev/shm) is full; a container takes --shm-size. Fewer or smaller batches "
    "under way (prefetch_factor, num_workers, batch_size) need less, num_workers=0 needs none",
    signal.SIGTERM: "Something asked it to end: a scheduler at its time limit, or `kill`",
}
_EXITED = (
    "What it wrote to the standard error says why. A script that starts worker processes must keep its loop below "
    '`if __name__ == "__main__":`'
)
_LEFT = "It was interrupted (Ctrl-C reaches worker processes, too) or left by itself"


def workers_of(batches: Any) -> list[BaseProcess]:
    """Return the worker processes behind an iterator of a `DataLoader`; none where threads read."""
    return list(getattr(batches, "_workers", ()))


def any_dead(batches: Any) -> bool:
    """Whether a worker process behind an iterator has ended, so that the iterator cannot be used for another pass."""
    return any(not worker.is_alive() for worker in workers_of(batches))


def dismiss(batches: Any) -> None:
    """End the worker processes behind an iterator now, and not when the last traceback that holds it is gone."""
    shutdown = getattr(batches, "_shutdown_workers", None)
    if shutdown is not None:
        # torch's handler of SIGCHLD says once more, wherever the process is, that a worker was killed.
        with suppress(RuntimeError):
            shutdown()
    getattr(batches, "_owner_is_gone", bool)()  # ends the thread of `dismiss_with`


def dismiss_with(owner: object, batches: Any) -> None:
    """End the worker processes behind an iterator when ``owner`` is gone, in a thread of its own.

    torch ends them in ``__del__``: it waits up to five seconds for each, and takes locks of their queues, in whatever
    thread the garbage collector runs and inside whatever block that has locked. So a thread keeps the iterator out of its
    reach until it has ended them.
    """
    told: SimpleQueue[None] = SimpleQueue()

    def keep() -> None:
        told.get()
        dismiss(batches)
        atexit.unregister(finish)

    def finish() -> None:
        told.put(None)
        thread.join()

    batches._owner_is_gone = weakref.finalize(owner, told.put, None)
    batches._owner_is_gone.atexit = False
    thread = Thread(target=keep, name="lsstcutouts-workers", daemon=True)
    thread.start()
    atexit.register(finish)


def worker_error(error: BaseException, batches: Any, place: str) -> WorkerError | None:
    """Return what to raise instead of ``error`` where it comes of the death of a worker process, else None.

    A worker that is killed shows as torch's RuntimeError, or as a connection that breaks while a batch is received.

    Parameters
    ----------
    error
        What the iterator raised.
    batches
        The iterator.
    place
        Which batch the loop waited for.
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
            how, advice = _told(worker.exitcode or 0)
            whom = f"worker process {number} of {len(workers)} (pid {worker.pid})"
            return WorkerError(f"{whom} {how} while the loop waited for {place}. {advice}")
    return None


def _ended(workers: Sequence[BaseProcess]) -> list[BaseProcess | None]:
    """Return the workers that have ended, None in the place of the others; one that is about to end is waited for."""
    end = time.monotonic() + _PATIENCE
    while all(worker.is_alive() for worker in workers) and time.monotonic() < end:
        # torch's handler of SIGCHLD raises in the middle of this, before the worker counts as ended.
        with suppress(RuntimeError):
            wait([worker.sentinel for worker in workers], _POLL)
            time.sleep(_POLL)
    return [None if worker.is_alive() else worker for worker in workers]


def _told(code: int) -> tuple[str, str]:
    """Return how a process with this exit code ended, and what to do about it."""
    if code > 0:
        return f"ended with exit code {code}", _EXITED
    if code == 0:
        return "ended", _LEFT
    try:
        number = signal.Signals(-code)
    except ValueError:  # a real-time signal
        return f"was killed by signal {-code}", _CRASH
    return f"was killed by {number.name}", _ADVICE.get(number, "Something sent it this signal")
