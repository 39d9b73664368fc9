"""Steps of jobs: done in order by one thread or by several, ended by errors, called off."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial

import pytest

from lsstcutouts.read.threads import Pending, Steps, Threads, run_here


class Work:
    """Steps that note what is done, and what they are told."""

    def __init__(self, steps: int = 3, jobs: int = 4, fails: tuple[int, int] | None = None) -> None:
        self.steps, self.jobs, self.fails = steps, jobs, fails
        self.done: list[tuple[int, int]] = []
        self.told: list[str] = []
        self.step_at_end: list[int] = []

    def __call__(self) -> Steps[str]:
        try:
            for step in range(self.steps):
                yield [partial(self.do, step, job) for job in range(self.jobs)]
                self.step_at_end.append(len(self.done))
                yield []
        except GeneratorExit:
            self.told.append("dropped")
            raise
        except BaseException as error:
            self.told.append(type(error).__name__)
            raise
        return "all"

    def do(self, step: int, job: int) -> None:
        if (step, job) == self.fails:
            raise OSError(f"{step}, {job}")
        time.sleep(0.001)
        self.done.append((step, job))


def test_steps_are_done_in_order() -> None:
    alone, shared = Work(), Work()
    assert run_here(alone()) == "all"
    threads = Threads(3)
    assert Pending(threads, shared(), str.upper).result() == "ALL"
    threads.stop()
    for work in (alone, shared):
        assert sorted(work.done) == [(step, job) for step in range(3) for job in range(4)]
        assert work.step_at_end == [4, 8, 12]  # a step begins when all jobs before it are done


def test_many_batches_share_few_threads() -> None:
    threads, works = Threads(2), [Work() for _ in range(20)]
    waiting = [Pending(threads, work(), str) for work in works]
    assert [one.result() for one in waiting] == ["all"] * 20
    threads.stop()


def test_what_was_begun_first_is_finished_first() -> None:
    """However many steps it has, and however many batches have begun meanwhile."""
    threads, works = Threads(2), [Work(steps=3, jobs=2) for _ in range(8)]
    finished: list[int] = []

    def noted(n: int) -> Callable[[str], None]:
        return lambda _: finished.append(n)

    waiting = [Pending(threads, work(), noted(n)) for n, work in enumerate(works)]
    for one in waiting:
        one.result()
    threads.stop()
    assert max(abs(n - place) for place, n in enumerate(finished)) <= 2


@pytest.mark.parametrize("step", [0, 2])
def test_an_error_ends_the_steps_and_is_raised(step: int) -> None:
    alone, shared = Work(fails=(step, 1)), Work(fails=(step, 1))
    with pytest.raises(OSError, match=f"{step}, 1"):
        run_here(alone())
    threads = Threads(2)
    with pytest.raises(OSError, match=f"{step}, 1"):
        Pending(threads, shared(), str).result()
    deadline = time.monotonic() + 10
    while not shared.told and time.monotonic() < deadline:  # another job of the step may have been under way
        time.sleep(0.001)
    threads.stop()
    assert alone.told == ["OSError"]
    # The last job of the step tells the steps; where another one is still under way, `result` drops them first.
    assert shared.told in (["CancelledError"], ["dropped"])


def test_what_the_steps_raise_is_raised() -> None:
    def steps() -> Steps[None]:
        yield []
        raise KeyError("planning")

    threads = Threads(2)
    with pytest.raises(KeyError, match="planning"):
        Pending(threads, steps(), str).result()
    threads.stop()


def test_a_job_that_has_to_wait_is_called_again_and_holds_nobody_up() -> None:
    """The only thread does what is waited for in between."""
    free = threading.Event()
    asked: list[bool] = []

    def waits() -> Steps[str]:
        yield [lambda: asked.append(free.is_set()) or not free.is_set()]
        return "waited"

    def frees() -> Steps[str]:
        yield [free.set]
        return "freed"

    threads = Threads(1)
    first, second = Pending(threads, waits(), str), Pending(threads, frees(), str)
    assert (first.result(), second.result()) == ("waited", "freed")
    assert asked[-1] is True
    threads.stop()
    late = threading.Timer(0.02, free.set)
    free.clear()
    late.start()
    assert run_here(waits()) == "waited"


@pytest.mark.parametrize("when", ["before it is queued", "after it was queued"])
def test_ctrl_c_while_a_thread_starts_leaves_nothing_waiting(when: str) -> None:
    threads = Threads(1)
    pool = threads._pool
    assert pool is not None
    submit, called = pool.submit, []

    def interrupted(function: Callable[[], None]) -> None:
        if when == "after it was queued":
            submit(function)
        raise KeyboardInterrupt

    pool.submit = interrupted  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        threads.submit(lambda: called.append("interrupted"), rank=0)
    for n in range(3):
        threads.submit(partial(called.append, n), rank=1).result(20)
    assert called[-3:] == [0, 1, 2]
    assert not threads._waiting
    threads.stop()


def test_what_is_stopped_is_cancelled_and_lets_go() -> None:
    threads, begun, go_on = Threads(1), threading.Event(), threading.Event()

    class Held:
        pass

    def steps(held: Held) -> Steps[Held]:
        def job() -> None:
            begun.set()
            assert go_on.wait(20)

        yield [job, job]
        yield [job]
        return held

    held = Held()
    gone = weakref.ref(held)
    waiting = Pending(threads, steps(held), str)
    del held
    assert begun.wait(20)
    threads.stop()
    go_on.set()
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(CancelledError):
        Pending(threads, steps(Held()), str)
    del waiting
    deadline = time.monotonic() + 10
    while gone() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert gone() is None


def test_a_job_is_called_again_when_what_it_waits_for_is_there() -> None:
    """And not before: two threads that wait for a slow server take no time, and do other work."""
    arrivals: list[Future[None]] = [Future(), Future()]
    asked = []

    def job() -> list[Future[None]]:
        asked.append([future.done() for future in arrivals])
        return [future for future in arrivals if not future.done()]

    def steps() -> Steps[str]:
        yield [job]
        return "all"

    threads = Threads(1)
    waiting = Pending(threads, steps(), str)
    assert Pending(threads, Work()(), str).result() == "all"
    for future in reversed(arrivals):
        future.set_result(None)
    assert waiting.result() == "all"
    assert asked in ([[False, False], [False, True], [True, True]], [[False, False], [True, True]])
    arrivals[:] = [Future(), Future()]
    late = [threading.Timer(0.02 * n, future.set_result, [None]) for n, future in enumerate(arrivals, 1)]
    for timer in late:
        timer.start()
    assert run_here(steps()) == "all"
    arrivals[:] = [Future()]
    waiting = Pending(threads, steps(), str)
    threading.Timer(0.02, threads.stop).start()
    with pytest.raises(CancelledError):
        waiting.result()
    arrivals[0].set_result(None)  # nobody waits any more


def test_what_a_waiting_job_holds_stays() -> None:
    """Bytes that are under way are fetched as long as somebody holds them, which may be only the job that waits for them."""
    begun = threading.Event()
    held: list[weakref.ref[Future[None]]] = []

    def job(arrivals: list[Future[None]]) -> list[Future[None]]:
        begun.set()
        return [one for one in arrivals if not one.done()]

    def jobs() -> list[Callable[[], list[Future[None]]]]:
        arrivals: list[Future[None]] = [Future()]
        held.append(weakref.ref(arrivals[0]))
        return [partial(job, arrivals)]

    def steps() -> Steps[str]:
        yield jobs()
        return "all"

    threads = Threads(1)
    waiting = Pending(threads, steps(), str)
    begun.wait()
    threads.submit(gc.collect).result()  # after the job has ended
    gc.collect()
    arrived = held[0]()
    assert arrived is not None
    arrived.set_result(None)
    assert waiting.result() == "all"


READING = """
import sys, threading, time
from lsstcutouts.read.threads import Pending, Threads

reading = threading.Event()

def steps():
    for _ in range(3):
        yield [lambda: time.sleep(0.001)] * 4

def read():
    threads = Threads(2)
    while True:
        Pending(threads, steps(), str).result()
        reading.set()

threading.Thread(target=read, daemon=sys.argv[1] == "daemon").start()
reading.wait()
"""


@pytest.mark.parametrize("kind", ["daemon", "other"])
def test_the_end_of_the_program_while_a_thread_reads(kind: str) -> None:
    """A daemon thread ends quietly, as Python ends it; any other one says that it cannot read any more."""
    done = subprocess.run(
        [sys.executable, "-c", READING, kind], check=True, capture_output=True, text=True, timeout=100
    )
    assert bool(done.stderr) == (kind == "other")
    assert ("after the main thread has ended; let the main thread wait" in done.stderr) == (kind == "other")
