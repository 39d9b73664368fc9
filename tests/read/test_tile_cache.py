"""The tile cache: order, bound, single flight, processes; and how much memory there is."""

import gc
import logging
import multiprocessing
import pickle
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.read.cache.limits import MemoryLimits
from lsstcutouts.read.cache.stats import CacheStats
from lsstcutouts.read.cache.tile_cache import TileCache

from ..support.examples import examples

KB = 1000


def array(value: int, nbytes: int = KB) -> NDArray[np.uint8]:
    return np.full(nbytes, value % 251, np.uint8)


class Maker:
    """Makes arrays for integer keys, and counts."""

    def __init__(self, nbytes: int = KB) -> None:
        self.nbytes = nbytes
        self.made: list[int] = []
        self.calls = 0

    def __call__(self, keys: Sequence[int]) -> Callable[[list[int]], list[NDArray[np.uint8]]]:
        def make(positions: list[int]) -> list[NDArray[np.uint8]]:
            self.calls += 1
            self.made += [keys[i] for i in positions]
            return [array(keys[i], self.nbytes) for i in positions]

        return make


def fetch(cache: TileCache, maker: Maker, keys: Sequence[int], **options: Any) -> list[NDArray[np.uint8]]:
    got = cache.get_many(keys, maker(keys), **options)
    for key, pixels in zip(keys, got, strict=True):
        assert pixels[0] == key % 251
    return got


def test_arrays_are_made_once_and_in_order() -> None:
    cache, maker = TileCache("1 MB"), Maker()
    fetch(cache, maker, [3, 1, 2])
    fetch(cache, maker, [2, 4, 3])
    assert maker.made == [3, 1, 2, 4]
    assert maker.calls == 2
    assert len(cache) == 4
    assert 4 in cache
    assert 5 not in cache
    assert cache.get(4, lambda: pytest.fail("is there")) is cache.get(4, lambda: pytest.fail("is there"))


def test_a_key_asked_for_twice_is_made_once() -> None:
    cache, maker = TileCache("1 MB"), Maker()
    first, _, again = fetch(cache, maker, [7, 8, 7])
    assert first is again
    assert maker.made == [7, 8]
    assert cache.stats().hits == 1


def test_the_least_recently_used_goes_first() -> None:
    cache, maker = TileCache(1_000_000), Maker(250_000)
    fetch(cache, maker, [1, 2, 3, 4])
    fetch(cache, maker, [1])
    fetch(cache, maker, [5])
    assert [key in cache for key in (1, 2, 3, 4, 5)] == [True, False, True, True, True]
    assert cache.stats().evictions == 1
    assert cache.stats().bytes == 1_000_000


@examples(60)
@given(
    requests=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True), max_size=25),
    sizes=st.lists(st.integers(1, 400_000), min_size=13, max_size=13),
)
def test_any_sequence_of_requests_equals_a_plain_model(requests: list[list[int]], sizes: list[int]) -> None:
    budget = 1_000_000
    cache, model = TileCache(budget), OrderedDict[int, int]()
    hits = misses = 0
    for keys in requests:
        missing = [key for key in keys if key not in model]
        cache.get_many(keys, lambda positions, keys=keys: [array(keys[i], sizes[keys[i]]) for i in positions])
        for key in keys:
            if key in model:
                model.move_to_end(key)
        for key in missing:
            model[key] = sizes[key]
        while sum(model.values()) > budget:
            model.popitem(last=False)
        hits, misses = hits + len(keys) - len(missing), misses + len(missing)
        stats = cache.stats()
        assert (stats.hits, stats.misses) == (hits, misses)
        assert stats.bytes == sum(model.values()) <= budget
        assert {key for key in range(13) if key in cache} == set(model)


def test_larger_than_the_budget_is_returned_and_not_kept() -> None:
    cache, maker = TileCache(1_000_000), Maker(400_000)
    fetch(cache, maker, [1, 2])
    big = cache.get("big", lambda: array(5, 1_000_001))
    assert len(big) == 1_000_001
    assert "big" not in cache
    assert 1 in cache
    assert 2 in cache


def test_no_budget_keeps_nothing() -> None:
    cache, maker = TileCache(0), Maker()
    fetch(cache, maker, [1, 2])
    assert len(cache) == 0
    assert cache.stats().bytes == 0


def test_evicted_arrays_are_freed() -> None:
    cache = TileCache(1_000_000)
    first = weakref.ref(cache.get(1, lambda: array(1, 600_000)))
    assert first() is not None
    cache.get(2, lambda: array(2, 600_000))
    gc.collect()
    assert first() is None


def test_requests_are_counted_as_tiles() -> None:
    cache, maker = TileCache("1 MB"), Maker()
    fetch(cache, maker, [1, 2], requests=[10, 1])
    assert (cache.stats().hits, cache.stats().misses) == (9, 2)
    before = cache.stats()
    fetch(cache, maker, [1, 2], requests=[4, 5])
    since = cache.stats() - before
    assert (since.hits, since.misses, since.hit_rate) == (9, 0, 1.0)
    assert since.entries == 2
    assert CacheStats().hit_rate == 0.0


def test_what_is_made_while_the_cache_is_cleared_is_not_kept() -> None:
    cache = TileCache(10_000)

    def make(positions: list[int]) -> list[NDArray[np.uint8]]:
        cache.clear()
        return [np.zeros(10, np.uint8) for _ in positions]

    assert len(cache.get_many(["a", "b"], make)) == 2
    assert "a" not in cache
    assert not cache._state().flights
    cache.get_many(["a"], lambda positions: [np.ones(10, np.uint8) for _ in positions])
    assert "a" in cache
    assert cache.stats().bytes == 10


def test_clear_and_resize() -> None:
    cache, maker = TileCache("4 MB"), Maker(500_000)
    fetch(cache, maker, range(8))
    cache.resize("2 MB")
    assert cache.stats().bytes == 2_000_000
    assert 7 in cache
    cache.clear()
    assert (len(cache), cache.stats().bytes) == (0, 0)
    assert cache.stats().misses == 8


def test_a_budget_shared_among_processes() -> None:
    cache, maker = TileCache("4 MB"), Maker(500_000)
    fetch(cache, maker, range(8))
    cache.share_among(4)
    assert cache.stats().max_bytes == cache.stats().bytes == 1_000_000
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.stats().max_bytes == 1_000_000
    cache.share_among(1)
    assert cache.stats().max_bytes == 4_000_000
    with pytest.raises(ConfigurationError, match="processes=0"):
        cache.share_among(0)


def test_failures_are_not_kept() -> None:
    cache = TileCache("1 MB")

    def fail(_: list[int]) -> list[NDArray[np.uint8]]:
        raise OSError("unreadable")

    for _ in range(2):
        with pytest.raises(OSError, match="unreadable"):
            cache.get_many([1, 2], fail)
    assert len(cache) == 0
    assert (cache.stats().hits, cache.stats().misses) == (0, 0)
    assert fetch(cache, Maker(), [1, 2])


def test_a_make_that_returns_too_few() -> None:
    with pytest.raises(ConfigurationError, match="1 entries for 2 keys"):
        TileCache("1 MB").get_many([1, 2], lambda _: [array(1)])


# Threads


def test_simultaneous_requests_decode_once() -> None:
    cache, threads = TileCache("1 MB"), 8
    barrier, lock, made = threading.Barrier(threads), threading.Lock(), [0]

    def make(positions: list[int]) -> list[NDArray[np.uint8]]:
        with lock:
            made[0] += len(positions)
        return [array(i) for i in positions]

    def ask(_: int) -> list[NDArray[np.uint8]]:
        barrier.wait()
        return cache.get_many(list(range(20)), make)

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(ask, range(threads)))
    assert made[0] == 20
    assert all(a is b for result in results for a, b in zip(result, results[0], strict=True))
    assert (cache.stats().hits, cache.stats().misses) == (20 * threads - 20, 20)


def test_a_thread_waits_for_what_another_is_making() -> None:
    cache = TileCache("1 MB")
    started, go_on = threading.Event(), threading.Event()

    def slow(_: list[int]) -> list[NDArray[np.uint8]]:
        started.set()
        assert go_on.wait(10)
        return [array(1)]

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get_many, [1], slow)
        assert started.wait(10)
        second = pool.submit(cache.get_many, [1, 2], lambda positions: [array(2) for _ in positions])
        while 2 not in cache:
            pass  # its own key is published before it waits
        assert not second.done()
        go_on.set()
        assert second.result(10)[0] is first.result(10)[0]
    assert cache.stats().waits == 1


def test_crossing_requests_do_not_lock_each_other_out() -> None:
    """Each thread makes what the other waits for."""
    cache, barrier = TileCache("1 MB"), threading.Barrier(2)

    def make(positions: list[int]) -> list[NDArray[np.uint8]]:
        barrier.wait(10)
        return [array(0) for _ in positions]

    def ask(own: str, other: str) -> list[NDArray[np.uint8]]:
        cache.get_many([own], make)
        return cache.get_many([own, other], lambda _: pytest.fail("was made"))

    with ThreadPoolExecutor(2) as pool:
        pending = [pool.submit(ask, "a", "b"), pool.submit(ask, "b", "a")]
        assert all(len(p.result(10)) == 2 for p in pending)


def test_a_waiting_thread_makes_what_another_failed_to_make() -> None:
    cache = TileCache("1 MB")
    started, go_on = threading.Event(), threading.Event()

    def failing(_: list[int]) -> list[NDArray[np.uint8]]:
        started.set()
        assert go_on.wait(10)
        raise OSError("first")

    asked: list[list[int]] = []

    def working(positions: list[int]) -> list[NDArray[np.uint8]]:
        asked.append(positions)
        return [array(p) for p in positions]

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get_many, ["x"], failing)
        assert started.wait(10)
        second = pool.submit(cache.get_many, ["y", "x"], working)
        while "y" not in cache:
            pass
        go_on.set()
        with pytest.raises(OSError, match="first"):
            first.result(10)
        assert len(second.result(10)) == 2
    assert asked == [[0], [1]]
    assert (cache.stats().hits, cache.stats().misses) == (0, 2)


def test_many_threads_within_a_tight_budget() -> None:
    cache = TileCache(1_000_000)

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            keys = rng.integers(0, 60, 8).tolist()
            fetch(cache, Maker(50_000), keys)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))
    stats = cache.stats()
    assert stats.hits + stats.misses == 6 * 60 * 8
    assert stats.bytes == 50_000 * stats.entries <= 1_000_000
    assert stats.evictions == stats.misses - stats.entries


# Processes


def in_child(cache: TileCache, queue: Any) -> None:
    maker = Maker()
    fetch(cache, maker, [1, 2])
    queue.put((maker.made, len(cache), cache.stats().misses))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)  # the case at hand
def test_another_process_starts_empty(method: str) -> None:
    cache = TileCache("1 MB")
    fetch(cache, Maker(), [1])
    context: Any = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    state = cache._state()
    with state.lock:  # a lock that is held during a fork stays locked in the child
        process = context.Process(target=in_child, args=(cache, queue))
        process.start()
    assert queue.get() == ([1, 2], 2, 2)
    process.join(20)
    assert process.exitcode == 0
    assert (len(cache), cache.stats().misses) == (1, 1)


def test_it_pickles_as_its_settings() -> None:
    cache = TileCache("1 MB")
    fetch(cache, Maker(), [1])
    copy = pickle.loads(pickle.dumps(cache))
    assert len(copy) == 0
    assert copy.stats().max_bytes == 1_000_000
    assert repr(copy) == "TileCache('1 MB')"


# Memory


def limits(available: float, total: float = 100e9, limited_by: str = "machine") -> MemoryLimits:
    return MemoryLimits(int(available), int(total), limited_by)


class Pressure:
    """Limits that a test sets."""

    def __init__(self, available: float) -> None:
        self.now = limits(available, 4e9)

    def __call__(self) -> MemoryLimits:
        return self.now


def test_the_cache_shrinks_while_memory_is_short(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsstcutouts.read.cache.watch._LOOK_SECONDS", 0.0)
    pressure = Pressure(2e9)
    cache, maker = TileCache("100 MB", limits=pressure), Maker(1_000_000)
    fetch(cache, maker, range(50))
    # Five percent of 4 GB should stay free; 30 MB of that are gone.
    pressure.now = limits(170e6, 4e9)
    with caplog.at_level(logging.WARNING, "lsstcutouts"):
        fetch(cache, maker, [100])
        fetch(cache, maker, [101])
    assert cache.stats().bytes < 25_000_000
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "decreases from 50 MB to 20 MB" in caplog.text
    pressure.now = limits(2e9, 4e9)
    fetch(cache, maker, range(200, 290))
    assert cache.stats().bytes == 90_000_000


def test_the_machine_is_looked_at_once_a_second_at_most() -> None:
    looks = [0]

    def count() -> MemoryLimits:
        looks[0] += 1
        return limits(2e9)

    cache = TileCache("1 MB", limits=count)
    for key in range(200):
        fetch(cache, Maker(), [key])
    assert looks[0] <= 4


def test_trouble_with_the_limits_leaves_no_thread_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsstcutouts.read.cache.watch._LOOK_SECONDS", 0.0)
    trouble = [False]

    def unreadable() -> MemoryLimits:
        if trouble[0]:
            raise PermissionError("/sys is closed")
        return limits(2e9)

    cache = TileCache("1 MB", limits=unreadable)
    fetch(cache, Maker(), [0])
    trouble[0] = True
    with pytest.raises(PermissionError):
        fetch(cache, Maker(), [1])
    trouble[0] = False
    fetch(cache, Maker(), [1])  # waits for ever if the flight of the failed call was not ended
