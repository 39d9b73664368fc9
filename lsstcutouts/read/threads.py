"""Threads that read batches, each of them step by step."""

import heapq
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from concurrent.futures import thread as futures_thread
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from ..errors import ConfigurationError
from ..source.promise import Promise
from ..source.promise import wait as wait_for

__all__ = ["Again", "Job", "Pending", "Steps", "Threads", "run_here"]

type Again = bool | Sequence[Future[Any]] | None
"""Whether a job must be called again, soon; or when one of these is done, of which at least one is given."""

type Job = Callable[[], Again]
"""Something to do; returns whether it must be called again, as it has to wait for what others do."""

type Steps[T] = Generator[list[Job], None, T]
"""Work that goes on, after each list of jobs that it yields, when all of them are done; they may be done side by side."""

type _Item = tuple[int, int, Callable[[], None], Promise[None]]
"""Rank, number, function, and what comes of it."""

_NAP = 0.0005
"""Seconds that a thread sleeps before it calls a job again."""

_LOOK = 0.2
"""Seconds after which who waits for a batch looks whether the threads were stopped meanwhile."""


def run_here[T](steps: Steps[T]) -> T:
    """Do all jobs in the calling thread, and return what comes of them."""
    try:
        while True:
            for job in next(steps):
                try:
                    while again := job():
                        if isinstance(again, Sequence):
                            wait(again, return_when=FIRST_COMPLETED)
                        else:
                            time.sleep(_NAP)
                except BaseException as error:  # Ctrl-C, too: the steps let go of what they hold; it is raised again
                    steps.throw(error)
                    raise
    except StopIteration as end:
        result: T = end.value
        return result


@contextmanager
def _until_exit() -> Iterator[None]:
    """Translate that Python starts no threads after the main thread has ended.

    Raises
    ------
    SystemExit
        In a daemon thread, which Python is about to end: so it ends without a traceback.
    ConfigurationError
        In any other thread.
    """
    try:
        yield
    except RuntimeError as error:
        if not futures_thread._shutdown:  # there is no public way to ask
            raise
        if threading.current_thread().daemon:
            raise SystemExit from error
        raise ConfigurationError(
            "cutouts cannot be read after the main thread has ended; let the main thread wait for the thread that reads: call its join()"
        ) from error


class Threads:
    """Threads that fill batches. They start when there is work, and end by themselves when this is stopped or dropped.

    Parameters
    ----------
    count
        How many there are at most.
    after_stop
        Called when this is stopped, and again whenever a function ends that was under way then: it may have opened a file
        meanwhile. Must not wait or lock, as `stop`.
    """

    def __init__(self, count: int, after_stop: Callable[[], None] | None = None) -> None:
        self.count = count
        self._after_stop = after_stop
        self._numbers = itertools.count()
        self._waiting: list[_Item] = []  # a heap
        self._pool: ThreadPoolExecutor | None = self._new_pool()

    def next_number(self) -> int:
        """Return a number that is higher than those before."""
        return next(self._numbers)

    def submit(self, function: Callable[[], None], rank: int = 0) -> Promise[None]:
        """Call a function in one of the threads; what waits is called in the order of its rank.

        Raises
        ------
        CancelledError
            If the threads have been stopped.
        """
        pool = self._pool
        if pool is None:
            raise CancelledError
        promise: Promise[None] = Promise()
        item = rank, self.next_number(), function, promise
        heapq.heappush(self._waiting, item)
        try:
            pool.submit(self._run)
        except BaseException:
            # Ctrl-C while a thread starts: the executor may not know of it, and would leave it waiting at the exit. Each thread
            # that is woken takes one function, so that one too many here would leave another one waiting for ever.
            with suppress(ValueError):
                self._waiting.remove(item)
                heapq.heapify(self._waiting)
            pool.shutdown(wait=False)
            self._pool = None if self._pool is None else self._new_pool()
            raise
        return promise

    def stop(self) -> None:
        """Call off what has not begun, and return at once.

        The garbage collector may call this in any thread, one of these included, and inside any locked block. So it
        neither joins nor locks: the executor wakes its threads when its last reference goes, and they end.
        """
        self._pool = None
        if self._after_stop is not None:
            self._after_stop()

    @property
    def stopped(self) -> bool:
        """Whether nothing is begun any more."""
        return self._pool is None

    def _new_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.count, thread_name_prefix="lsstcutouts")

    def _run(self) -> None:
        try:
            _, _, function, promise = heapq.heappop(self._waiting)
        except IndexError:  # called off by Ctrl-C
            return
        try:
            if self._pool is not None:
                function()
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            promise.set_exception(error)
        else:
            promise.set_result(None)
        finally:
            del function, promise  # the error refers to this frame
            if self._pool is None and self._after_stop is not None:
                self._after_stop()


class Pending[T]:
    """A batch under way.

    The thread that does the last job of a step also begins the next one and finishes the batch, so that the loop never does.

    Parameters
    ----------
    threads
        They do the jobs.
    steps
        What is to be done.
    then
        Makes the result.
    """

    def __init__[D](self, threads: Threads, steps: Steps[D], then: Callable[[D], T]) -> None:
        self._threads, self._steps, self._then = threads, steps, then
        self._process = os.getpid()
        self._jobs: list[Job] = []
        self._left: list[int] = []
        self._failed = False
        self._finished: list[T] = []
        self._promises: deque[Promise[None]] = deque()
        self._rank = threads.next_number()  # what was begun first is finished first
        with _until_exit():
            self._promises.append(threads.submit(self._next_step, self._rank))

    def result(self) -> T:
        """Wait for the batch and return it; what a job raised is raised here.

        Raises
        ------
        CancelledError
            If the threads were stopped meanwhile.
        ConfigurationError
            In a process that was forked meanwhile: it has none of the threads.
        """
        if self._process != os.getpid():
            raise ConfigurationError(
                f"this iterator was created in process {self._process}, whose threads do not exist in this forked process; "
                "create a new iterator here"
            )
        try:
            with _until_exit():
                while self._promises:  # a job adds those of the next step before its own is done
                    while not self._promises[0].done() and not self._threads.stopped:
                        wait_for([self._promises[0]], _LOOK)
                    if not self._promises[0].done():  # may wait for bytes
                        break
                    self._promises.popleft().result()  # no name for it: a traceback in a ring with its own exception keeps the batch
        except BaseException:  # after Ctrl-C, too, nobody wants the rest; it is raised again
            self.call_off()
            raise
        if not self._finished:
            self.call_off()
            raise CancelledError
        return self._finished[0]

    def call_off(self) -> None:
        """Do what has not begun no more, and let go of what the steps hold; what is under way goes on. Neither waits nor locks.

        Without this they would hold it until the last reference to them goes. Where an error refers to a job that is until the
        garbage is collected, and others may wait for it.
        """
        self._failed = True
        with suppress(ValueError):  # a thread is computing the next step, and sees this after it
            self._steps.close()

    def _next_step(self) -> None:
        """Go on after the jobs of a step."""
        try:
            jobs = next(self._steps)
            while not jobs:
                jobs = next(self._steps)
        except StopIteration as end:
            if not self._failed:
                self._finished.append(self._then(end.value))
            return
        # A job that waits may be all that holds what it waits for: bytes that nobody holds are not fetched.
        self._jobs = jobs
        self._left = list(range(len(jobs)))
        self._submit(jobs, self._rank)

    def _submit(self, jobs: list[Job], rank: int) -> None:
        try:
            for job in jobs:
                self._promises.append(self._threads.submit(partial(self._run, job), rank))
        except CancelledError:  # stopped: `result` finds that nothing came of it
            self._failed = True
        if self._failed:
            self.call_off()

    def _submit_after(self, futures: Sequence[Future[Any]], job: Job) -> None:
        """Have a job called again when one of some futures is done."""
        called: Promise[None] = Promise()
        self._promises.append(called)
        jobs = [job]

        def call(_: Future[Any]) -> None:
            try:
                own = [jobs.pop()]
            except IndexError:  # another one was done before
                return
            try:
                self._submit(own, self._rank)
            except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
                called.set_exception(error)
            else:
                called.set_result(None)

        for future in futures:
            future.add_done_callback(call)

    def _run(self, job: Job) -> None:
        again: Again = False
        try:
            again = not self._failed and job()
        except BaseException:  # raised again where the result is asked for; the other jobs need not begin
            self._failed = True
            raise
        finally:
            if again and isinstance(again, Sequence):
                self._submit_after(again, job)
            elif again:
                time.sleep(_NAP)
                self._submit([job], self._threads.next_number())  # behind all that waits: it may wait for that
            elif self._left.pop() == 0:
                self._end_step()

    def _end_step(self) -> None:
        self._jobs = []
        if not self._failed:
            self._next_step()
            return
        with suppress(BaseException):
            self._steps.throw(CancelledError())
