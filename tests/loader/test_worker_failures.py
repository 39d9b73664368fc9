"""Worker processes: the same samples however they start, and nothing left when a pass ends, well or not."""

import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, IterableDataset

from lsstcutouts import errors
from lsstcutouts.errors import MissingFileError, WorkerError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.device.tensors import Form
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.loader.worker_failures import dismiss, workers_of
from lsstcutouts.loader.worker_pool import _started
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.source.locks import ForkLock
from lsstcutouts.testing import SimulatedRepository

from ..support.leftovers import held, left, nothing_left

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts through /proc"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
SOON = 15.0
"""Seconds on a busy machine; torch looks at its workers every five."""


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=32)


@pytest.fixture(scope="module")
def broken(plan: CutoutPlan) -> CutoutPlan:
    """A plan one of whose files is gone."""
    uris = tuple("/nowhere/gone.fits" if i == 4 else uri for i, uri in enumerate(plan.files.uri))
    return replace(plan, files=type(plan.files)(uris, plan.files.size, plan.files.dataset_id))


def loader_of(plan: CutoutPlan, workers: int = 2, *, batch_size: int = 9, **settings) -> CutoutLoader:
    dataset = CutoutDataset(plan, batch_size=batch_size, cache_bytes="100 MB", threads=2, seed=5)
    if workers:
        settings.setdefault("multiprocessing_context", "fork")
    return CutoutLoader(dataset, num_workers=workers, **settings)


def pixels(batches) -> tuple[list[int], torch.Tensor]:
    kept = list(batches)
    return torch.cat([b["object_id"] for b in kept]).tolist(), torch.cat([b["image"] for b in kept])


def assert_same(loader: CutoutLoader, plan: CutoutPlan) -> None:
    alone = loader_of(plan, 0)
    for _ in range(2):
        (ids, image), (expected, pixel) = pixels(loader), pixels(alone)
        assert ids == expected
        assert torch.equal(image, pixel)


def test_a_fork_leaves_threads_files_and_locks_to_its_parent(plan: CutoutPlan) -> None:
    loader = loader_of(plan)
    dataset = loader.cutouts
    running = iter(loader_of(plan, 0))
    next(running)  # live threads
    reader = dataset._reader
    reader.read(dataset.rows[:9])  # a used cache, open files
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with dataset.cache._state().lock, reader._files._lock:
            taken.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    try:
        batches = iter(loader)  # forks now
    finally:
        done.set()
        holder.join()
    kept = list(batches)
    assert pixels(kept)[0] == pixels(loader_of(plan, 0))[0]
    assert loader.worker_pool.caches.total().misses > 0  # decoded anew, by the workers


def test_a_lock_is_free_after_a_fork() -> None:
    lock = ForkLock()
    with lock:
        child = os.fork()
        if child == 0:
            with lock:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_named(plan: CutoutPlan, number: signal.Signals) -> None:
    with nothing_left():
        loader = loader_of(plan, batch_size=2, prefetch_factor=1)
        passing = iter(loader)
        next(passing)
        victim = passing._source._workers[1].pid
        start = time.monotonic()
        with pytest.raises(RuntimeError) as caught:  # torch's own where it comes between two batches
            kill_and_go_on(victim, number, passing)
        assert time.monotonic() - start < SOON
        assert str(victim) in str(caught.value)
        if isinstance(caught.value, WorkerError):
            assert number.name in str(caught.value)
            assert "of epoch 0" in str(caught.value)
            assert ("cache_bytes" in str(caught.value)) == (number == signal.SIGKILL)
            assert list(passing) == []
        del passing, caught
        assert loader.position.epoch == 0
        assert_goes_on(loader, plan)
        del loader


def kill_and_go_on(victim: int, number: signal.Signals, passing) -> None:
    os.kill(victim, number)
    list(passing)


def assert_goes_on(loader: CutoutLoader, plan: CutoutPlan) -> None:
    """A loader whose pass failed is as good as before."""
    loader.set_epoch(0)
    assert sorted(pixels(loader)[0]) == sorted(plan.object_id.tolist())


@pytest.mark.slow
def test_a_worker_of_the_fork_server_is_named(plan: CutoutPlan) -> None:
    loader = loader_of(plan, batch_size=2, prefetch_factor=1, multiprocessing_context="forkserver")
    passing = iter(loader)
    next(passing)
    victim = passing._source._workers[0].pid
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(WorkerError, match=rf"pid {victim}\) was killed by SIGKILL .* cache_bytes"):
        list(passing)


def test_persistent_workers_that_ended_between_passes_are_replaced(plan: CutoutPlan) -> None:
    loader = loader_of(plan)
    passing = iter(loader)
    list(passing)
    for worker in passing._source._workers:
        os.kill(worker.pid, signal.SIGINT)  # as Ctrl-C in a notebook does
    for worker in passing._source._workers:
        worker.join(10)
    del passing
    assert_goes_on(loader, plan)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_says_what_and_where(broken: CutoutPlan, workers: int) -> None:
    with nothing_left():
        loader = loader_of(broken, workers, batch_size=2)
        passing = iter(loader)
        start = time.monotonic()
        with pytest.raises(MissingFileError, match=r"gone\.fits.*tract \d+, patch \d+, band \w") as caught:
            list(passing)
        assert time.monotonic() - start < SOON
        assert list(passing) == []  # not what other workers go on reading, with a hole in it
        del caught, passing
        with pytest.raises(MissingFileError):  # the loader itself lives
            list(loader)
        del loader


def fail(form, clock, delivery):
    raise ZeroDivisionError("no tensors today")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_after_the_pixels_reaches_the_loop(
    plan: CutoutPlan, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsstcutouts.loader.dataset._finished", fail)
    with nothing_left(), pytest.raises(ZeroDivisionError, match="no tensors today"):
        next(iter(loader_of(plan, workers)))


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_a_process_border(name: str) -> None:
    kind = getattr(errors, name)
    assert type(kind.__new__(kind, "x")) is kind  # as Dask restores exceptions, once it has been imported
    error = pickle.loads(pickle.dumps(kind("file x (tract 1, patch 2, band g)")))
    assert type(error) is kind
    assert str(error) == "file x (tract 1, patch 2, band g)"
    try:
        raise error
    except kind:
        wrapper = pickle.loads(pickle.dumps(ExceptionWrapper(where="in a worker")))
    with pytest.raises(kind, match=r"(?s)in a worker.*file x \(tract 1, patch 2, band g\)"):
        wrapper.reraise()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_given_up_leaves_nothing(plan: CutoutPlan, workers: int) -> None:
    with nothing_left():
        loader = loader_of(plan, workers, batch_size=2)
        for _ in range(2):
            for _batch in loader:
                break
        del _batch, loader  # while batches are under way


def test_two_loaders_at_once(plan: CutoutPlan) -> None:
    with nothing_left():
        train, val = loader_of(plan), loader_of(plan)
        expected = pixels(loader_of(plan, 0))[0]
        pairs = list(zip(train, val, strict=True))
        assert pixels(a for a, _ in pairs)[0] == pixels(b for _, b in pairs)[0] == expected
        del pairs, train, val


def test_counting_sees_what_is_left() -> None:
    before = held()
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    read, write = os.pipe()
    assert set(left(before, 0)) == {"threads", "handles"}
    done.set()
    thread.join()
    os.close(read)
    os.close(write)
    gc.collect()
    assert left(before) == {}


class Unending(IterableDataset):
    """What worker processes wait for, as for a server that does not answer."""

    def batches(self, *_: object, **__: object) -> Iterator[None]:
        time.sleep(1000)
        yield None

    __iter__ = batches


def test_workers_that_wait_are_ended_together() -> None:
    """torch alone waits five seconds for each of them."""
    loader = DataLoader(Unending(), batch_size=None, num_workers=4, multiprocessing_context="fork")
    batches = iter(_started(loader, Form(), stay=False))
    workers = workers_of(batches)
    start = time.monotonic()
    dismiss(batches)
    assert time.monotonic() - start < SOON
    assert not any(worker.is_alive() for worker in workers)
