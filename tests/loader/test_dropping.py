"""A pass that is dropped signals its threads and processes and returns: the garbage collector never waits in it."""

import concurrent.futures.thread
import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import dataloader

from lsstcutouts import Sampling
from lsstcutouts.errors import ConfigurationError, MissingFileError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.device.transfer import DirectTransfer
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read import open_files as files
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.read.reader import CutoutReader, Delivery, Request, stream
from lsstcutouts.read.threads import Threads
from lsstcutouts.testing import SimulatedRepository

from ..support import ranks
from ..support.dropping import ring
from ..support.leftovers import nothing_left

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts through /proc"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=32)


def fetcher_of(repo: SimulatedRepository) -> LsstDataFetcher:
    return LsstDataFetcher(repo.root, collections="dp2", bands="gri", size=32, threads=2, cache_bytes="100 MB")


def within(seconds: float, do: Callable[[], object]) -> float:
    """Do something in a thread that may stay behind; return the seconds that it took."""
    start, failed = time.monotonic(), []

    def work() -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"it waits, {seconds:g} s by now"
    for error in failed:
        raise error
    return time.monotonic() - start


@pytest.mark.slow
def test_many_threads_drop_passes_while_everything_is_collected(
    plan: CutoutPlan, dp2_repo: SimulatedRepository, tmp_path: Path
) -> None:
    plan.save(tmp_path / "plan.parquet")
    command = [sys.executable, "-m", "tests.support.dropping", str(tmp_path / "plan.parquet"), str(dp2_repo.root)]
    ranks.run(command, env=ranks.environment(LSSTCUTOUTS_KERNELS=""), timeout=200)


def test_garbage_is_collected_inside_every_locked_block(plan: CutoutPlan, dp2_repo: SimulatedRepository) -> None:
    def body() -> None:
        cache, fetcher = TileCache("2 MB"), fetcher_of(dp2_repo)
        dataset = CutoutDataset(plan, batch_size=5, cache=cache, threads=2)
        on_device = CutoutLoader(CutoutDataset(plan, batch_size=5, cache=cache, threads=2))
        on_device.mover = DirectTransfer(torch.device("cpu"))

        def fetches() -> Iterator[object]:
            with fetcher:
                while True:
                    yield fetcher.fetch(plan.ra[:5], plan.dec[:5])

        going = [iter(CutoutLoader(dataset)), iter(on_device), iter(dataset), fetches()]
        for one in going:
            next(one)
        while going:
            ring(going.pop())
        del one
        reader = dataset._reader
        locks = [cache._state().lock, fetcher.cache._state().lock, reader._files._lock, fetcher._files._lock]
        locks += [
            concurrent.futures.thread._global_shutdown_lock,
            *(pool._pool._shutdown_lock for pool in fetcher._pools.values()),
        ]

        def collect() -> None:
            with ExitStack() as stack:
                for lock in locks:
                    stack.enter_context(lock)
                gc.collect()

        within(20, collect)
        assert not fetcher._pools
        assert fetcher._planner is None
        batch = fetcher.fetch(plan.ra[:5], plan.dec[:5])["image"]  # it opens everything again
        np.testing.assert_array_equal(batch, reader.read(np.arange(5))["image"])
        fetcher.close()
        dataset._reader._memory.trim()
        on_device.cutouts._reader._memory.trim()
        gc.collect()
        assert cache.stats().reserved == dataset._reader._files.nbytes + on_device.cutouts._reader._files.nbytes
        assert fetcher.cache_info().reserved == fetcher._files.nbytes

    with nothing_left():
        body()


def test_garbage_is_collected_in_a_thread_of_its_own_pass(plan: CutoutPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot join itself, and those that wait for it cannot go on before it does."""
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def body() -> None:
        dropped, collected = threading.Event(), threading.Event()
        once = threading.Lock()  # both threads in here would leave nobody to finish the first batch

        def collect(delivery: Delivery) -> object:
            later = delivery.batch["object_id"][0] != plan.object_id[0]
            if later and once.acquire(blocking=False) and dropped.wait(20):
                gc.collect()
                collected.set()
            return None

        requests = [Request(np.arange(i, i + 4)) for i in range(0, 40, 4)]
        reader = CutoutReader(plan, cache=TileCache("50 MB"))
        passing = stream(reader, requests, threads=2, ahead=4, then=collect)
        next(passing)
        ring(passing)
        del passing
        dropped.set()
        assert collected.wait(20)

    with nothing_left():
        body()
    assert not unraisable


def test_threads_that_are_stopped_or_dropped_end_by_themselves() -> None:
    def body() -> None:
        begun, go_on, done = threading.Event(), threading.Event(), []

        def work() -> None:
            begun.set()
            go_on.wait(20)
            done.append(None)

        threads = Threads(1)
        futures = [threads.submit(work) for _ in range(5)]
        assert begun.wait(20)
        threads.stop()
        go_on.set()
        for future in futures:
            future.result(20)
        assert len(done) == 1  # what had not begun is called off
        with pytest.raises(concurrent.futures.CancelledError):
            threads.submit(work)
        dropped = Threads(2)
        last = [dropped.submit(work) for _ in range(5)]
        del dropped
        for future in last:
            future.result(20)
        assert len(done) == 6

    with nothing_left():
        body()


def threads_end() -> bool:
    end = time.monotonic() + 10
    while any(t.name.startswith("lsstcutouts") for t in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.02)
    return not [t for t in threading.enumerate() if t.name.startswith("lsstcutouts")]


@pytest.mark.parametrize("dropped", [True, False])
def test_a_file_opened_after_the_end_is_let_go(
    dropped: bool, plan: CutoutPlan, dp2_repo: SimulatedRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, begun, go_on, opened = np.arange(4), threading.Event(), threading.Event(), files._opened
    reader = CutoutReader(plan)
    reader.read(first)
    early = {uri for _, uri in reader._files._open}
    reader.close()

    def late(plan: CutoutPlan, file: int) -> Any:
        if plan.files.uri[file] not in early:
            begun.set()
            go_on.wait(20)
        return opened(plan, file)

    monkeypatch.setattr(files, "_opened", late)
    if dropped:
        kept = reader._files
        requests = [Request(first), Request(np.arange(4, len(plan)))]
        passing: Any = stream(reader, requests, threads=2, ahead=2, then=lambda delivery: delivery)
        next(passing)
        assert begun.wait(20)
        passing.close()
    else:
        fetcher = fetcher_of(dp2_repo)
        kept = fetcher._files

        def fetch() -> None:
            with suppress(ConfigurationError):
                fetcher.fetch_plan(plan)

        threading.Thread(target=fetch).start()
        assert begun.wait(20)
        fetcher.close()
    go_on.set()
    assert threads_end()
    assert not kept._open


def test_a_forked_process_is_told_that_a_pass_has_no_threads_there(plan: CutoutPlan) -> None:
    passing = iter(CutoutLoader(CutoutDataset(plan, batch_size=7, threads=2)))
    next(passing)
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            list(passing)
        except ConfigurationError as error:
            os._exit(7 if "forked process" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert sum(len(batch["object_id"]) for batch in passing) == len(plan) - 7


def test_a_pass_begins_while_another_looks_for_those_under_way(plan: CutoutPlan) -> None:
    dataset, looks, begun = CutoutDataset(plan, batch_size=40, threads=1), itertools.count(), []

    def looked_at() -> None:  # as another thread does at any place
        if next(looks) == 0:
            begun.append(iter(dataset))
            next(begun[0])

    first = iter(dataset)
    next(first)
    first.loader = looked_at
    assert len(next(iter(dataloader.DataLoader(dataset, batch_size=None)))["object_id"]) == 40
    assert begun


def test_ctrl_c_while_a_thread_starts_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def press(self, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    with nothing_left():
        threads = Threads(2)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Event, "wait", press)  # as `Thread.start` does
            with pytest.raises(KeyboardInterrupt) as caught:
                threads.submit(gc.collect)
        assert threads.submit(lambda: None).result(20) is None  # others take its place
        threads.stop()
        assert threads_end()
    assert caught.tb is not None  # it holds the executor, as the latest error of a script does until its exit


def test_an_error_ends_the_threads_although_its_traceback_is_kept(plan: CutoutPlan) -> None:
    """As a notebook keeps the latest one."""
    with nothing_left():
        cache = TileCache("50 MB")
        reader = CutoutReader(plan, cache=cache)

        def fail(delivery: object) -> object:
            raise ZeroDivisionError

        requests = [Request(np.arange(i, i + 40)) for i in range(0, 80, 40)]
        with pytest.raises(ZeroDivisionError) as caught:
            list(stream(reader, requests, threads=2, ahead=2, then=fail))
        end = time.monotonic() + 10
        while any(t.name.startswith("lsstcutouts") for t in threading.enumerate()) and time.monotonic() < end:
            time.sleep(0.02)
        assert not [t for t in threading.enumerate() if t.name.startswith("lsstcutouts")]
        del caught
        gc.disable()  # no ring keeps what the batches took
        try:
            while cache.stats().reserved > reader._files.nbytes and time.monotonic() < end:
                time.sleep(0.02)
            assert cache.stats().reserved == reader._files.nbytes
        finally:
            gc.enable()


def test_closing_ends_the_fetch_of_another_thread(
    plan: CutoutPlan, dp2_repo: SimulatedRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> None:
        fetcher = fetcher_of(dp2_repo)
        begun, go_on, seen = threading.Event(), threading.Event(), []

        def hold(*arguments: object) -> None:
            begun.set()
            go_on.wait(20)

        def fetch() -> None:
            try:
                fetcher.fetch_plan(plan)
            except ConfigurationError as error:
                seen.append(str(error))

        fetcher.fetch_plan(plan)  # few targets are read without a pool
        (pool,) = fetcher._pools.values()
        for _ in range(2):  # both threads
            pool.submit(hold)
        thread = threading.Thread(target=fetch)
        thread.start()
        assert begun.wait(20)
        while pool._pool._work_queue.qsize() == 0:
            time.sleep(0.01)
        assert within(20, fetcher.close) < 5  # waits for none of them
        go_on.set()
        thread.join(20)
        assert seen == ["the fetcher was closed by another thread while it was reading; create a new fetcher"]
        assert len(fetcher.fetch_plan(plan)["image"]) == len(plan)
        fetcher.close()

    with nothing_left():
        body()


def test_closing_while_a_plan_is_made_closes_the_repository_afterwards(dp2_repo: SimulatedRepository) -> None:
    fetcher = fetcher_of(dp2_repo)
    fetcher.plan(dp2_repo.truth)
    planner, closed = fetcher._planner, []
    assert planner is not None
    begun, go_on = threading.Event(), threading.Event()
    fetcher._planner = SimpleNamespace(  # type: ignore[assignment]
        repository=SimpleNamespace(close=lambda: closed.append(planner.repository.close())),
        plan=lambda targets, **given: (begun.set(), go_on.wait(20), planner.plan(targets, **given))[2],
    )
    thread = threading.Thread(target=fetcher.plan, args=(dp2_repo.truth,))
    thread.start()
    assert begun.wait(20)
    within(20, fetcher.close)
    assert not closed
    go_on.set()
    thread.join(20)
    assert len(closed) == 1
    assert fetcher._planner is None


def test_no_garbage_waits_for_a_worker_process(plan: CutoutPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch ends them in ``__del__``, which waits and takes locks; here it is called by a thread that nobody waits for."""
    kind, ended, collected = dataloader._MultiProcessingDataLoaderIter, [], threading.Event()
    shutdown, collecting = kind._shutdown_workers, threading.local()

    def watch(self) -> None:
        ended.append((threading.current_thread().name, getattr(collecting, "now", False), self._shutdown))
        collected.wait(30)
        shutdown(self)

    def note(phase: str, info: object) -> None:
        collecting.now = phase == "start"

    monkeypatch.setattr(kind, "_shutdown_workers", watch)
    gc.callbacks.append(note)
    try:
        with nothing_left():
            dataset = CutoutDataset(plan, batch_size=9, threads=1, cache_bytes="50 MB")
            loader = CutoutLoader(dataset, num_workers=2, multiprocessing_context="fork")
            passing = iter(loader)
            next(passing)
            ring((passing, loader))
            lock = dataset.cache._state().lock
            del passing, loader

            def collect() -> None:
                with lock:
                    gc.collect()

            within(20, collect)
            collected.set()
            del dataset
    finally:
        gc.callbacks.remove(note)
    first = [(name, now) for name, now, over in ended if not over]
    assert first == [("lsstcutouts-workers", False)]


def test_a_loader_ends_its_processes_once_it_is_done_with_them(plan: CutoutPlan) -> None:
    with nothing_left():
        gone = tuple("/nowhere/gone.fits" if i == 4 else uri for i, uri in enumerate(plan.files.uri))
        broken = CutoutPlan(
            **{**plan.__dict__, "files": type(plan.files)(gone, plan.files.size, plan.files.dataset_id)}
        )
        keepers = []
        for some in (plan, broken):
            dataset = CutoutDataset(some, batch_size=9, threads=1, cache_bytes="50 MB")
            loader = CutoutLoader(dataset, num_workers=1, multiprocessing_context="fork")
            for _ in range(2):
                passing = iter(loader)
                try:
                    for _batch in passing:
                        keepers.append(sum(t.name == "lsstcutouts-workers" for t in threading.enumerate()))
                except MissingFileError:
                    assert some is broken
                else:
                    assert some is plan
                kept = passing  # it was read to its end: nothing lives behind it but persistent workers
                assert next(kept, None) is None
        assert set(keepers) <= {1, 2}
        del dataset, loader, passing, kept, _batch


def test_ctrl_c_while_persistent_workers_start_an_epoch(plan: CutoutPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> None:
        dataset = CutoutDataset(plan, batch_size=9, threads=1, cache_bytes="50 MB", sampling=Sampling(shuffle=False))
        loader = CutoutLoader(dataset, num_workers=1, multiprocessing_context="fork")
        whole = [b["object_id"].tolist() for b in loader]
        with monkeypatch.context() as patch:

            def press(self) -> None:
                raise KeyboardInterrupt

            patch.setattr(dataloader._MultiProcessingDataLoaderIter, "_get_data", press)
            with pytest.raises(KeyboardInterrupt):
                next(iter(loader))
        assert [b["object_id"].tolist() for b in loader] == whole

    with nothing_left():
        body()
