"""One budget for tiles and batches under way, and the watch over the process."""

import gc
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.read.cache.stats import CacheStats
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.cache.watch import SLACK, MemoryWatch
from lsstcutouts.source.limits import MemoryLimits

from ..support.claims import collect_inside, fetch, wanted
from ..support.examples import examples

MB = 1_000_000


def fill(cache: TileCache, tiles: range, nbytes: int = MB) -> None:
    fetch(cache, wanted("a", list(tiles), nbytes, count=4000))


def there(cache: TileCache, tiles: range) -> list[bool]:
    """Return which tiles are in the cache, leaving it as it is."""
    return [bool(cache._state().blocks["a"].slots[tile] >= 0) for tile in tiles]


def test_what_is_reserved_is_not_there_for_tiles() -> None:
    cache = TileCache("10 MB")
    fill(cache, range(10))
    cache.reserve(4 * MB)
    assert (cache.stats().bytes, cache.stats().reserved, cache.stats().evictions) == (6 * MB, 4 * MB, 4)
    assert there(cache, range(10)) == [False] * 4 + [True] * 6
    fill(cache, range(20, 30))
    assert cache.stats().bytes == 6 * MB
    cache.release(4 * MB)
    fill(cache, range(40, 50))
    assert (cache.stats().bytes, cache.stats().reserved) == (10 * MB, 0)


def test_more_reserved_than_there_is_costs_tiles_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    cache = TileCache("10 MB")
    fill(cache, range(10))
    with caplog.at_level(logging.WARNING, "lsstcutouts"):
        cache.reserve(8 * MB)
        assert not caplog.records
        cache.reserve(8 * MB)
        cache.reserve(8 * MB)
    assert (len(cache), cache.stats().reserved) == (0, 24 * MB)
    [record] = caplog.records
    assert "need 16 MB" in record.getMessage()
    assert "cache_bytes (10 MB)" in record.getMessage()
    assert "smaller batch_size or a larger cache_bytes" in record.getMessage()
    fill(cache, range(5))
    assert len(cache) == 0
    cache.release(24 * MB)
    fill(cache, range(5))
    assert len(cache) == 5


@examples(60)
@given(st.lists(st.tuples(st.sampled_from(["get", "reserve", "release"]), st.integers(0, 15)), max_size=60))
def test_tiles_and_reservations_stay_within_the_budget(steps: list[tuple[str, int]]) -> None:
    cache, reserved = TileCache(10 * MB), 0
    for what, n in steps:
        if what == "get":
            fill(cache, range(n, n + 3))
        elif what == "reserve":
            cache.reserve(n * MB)
            reserved += n * MB
        else:
            cache.release(min(n * MB, reserved))
            reserved -= min(n * MB, reserved)
        stats = cache.stats()
        assert stats.reserved == reserved
        assert stats.bytes <= max(0, 10 * MB - reserved)
        assert stats.bytes >= MB * stats.entries


class Buffer:
    """Releases what it reserved when it is collected; part of a cycle, so that only the collector frees it."""

    def __init__(self, cache: TileCache) -> None:
        self.me = self
        cache.reserve(1000)
        weakref.finalize(self, cache.release, 1000)


def test_buffers_that_are_collected_while_the_cache_is_locked_lock_nothing() -> None:
    """A finaliser runs in whatever its thread is doing, also in the middle of a locked block."""
    cache = TileCache("1 MB")
    Buffer(cache)
    collect_inside(cache)
    assert cache.stats().reserved == 0


def test_buffers_of_many_threads_are_all_released() -> None:
    cache = TileCache(2 * MB)
    threshold = gc.get_threshold()

    def work(seed: int) -> None:
        for n in range(300):
            Buffer(cache)
            fill(cache, range(seed + n, seed + n + 3), 50_000)

    gc.set_threshold(7)  # collects all the time, in every thread
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(0, 4000, 1000)))
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    stats = cache.stats()
    assert stats.reserved == 0
    assert 50_000 * stats.entries <= stats.bytes <= 2 * MB


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_has_nothing_reserved() -> None:
    cache = TileCache("1 MB")
    cache.reserve(1000)
    pid = os.fork()
    if pid == 0:
        cache.release(1000)  # the buffer of the parent, copied
        right = cache.stats().reserved == 0
        cache.reserve(7)
        os._exit(0 if right and cache.stats().reserved == 7 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert cache.stats().reserved == 1000


def test_bytes_read_for_each_useful_one() -> None:
    cache = TileCache("1 MB")
    assert cache.stats().read_per_useful == 0.0
    cache.note(read=600)
    cache.note(delivered=300)
    cache.note(read=100, delivered=100)
    assert cache.stats().read_per_useful == 1.75


def test_figures_of_processes_add_up() -> None:
    one = CacheStats(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert one + one == CacheStats(2, 4, 6, 8, 10, 12, 14, 16, 18, 20)
    assert sum([one, one], CacheStats()) == one + one
    assert one.past == CacheStats(1, 2, 3, 4, 0, 0, 0, 0, 9, 10)
    assert (one + one) - one == CacheStats(1, 2, 3, 4, 10, 12, 14, 16, 9, 10)


# The watch


class World:
    """A process and a machine that a test sets, and their watch."""

    def __init__(self, available: float = 50e9, total: float = 100e9, ranks: int = 1) -> None:
        self.resident = 0
        self.limits = MemoryLimits(int(available), int(total), "machine", ranks)
        self.watch = MemoryWatch(lambda: self.limits, lambda: self.resident)


def test_the_process_is_measured_once_something_was_decoded() -> None:
    world = World()
    world.resident = 900 * MB
    world.watch.look(0, 100 * MB, settled=False)
    assert world.watch.base is None
    world.resident = 1050 * MB
    room = world.watch.look(50 * MB, 100 * MB, settled=True)
    assert world.watch.base == 1000 * MB
    assert room.nbytes == 50 * MB + SLACK


def test_a_process_that_goes_on_growing_takes_half_of_the_cache_at_most() -> None:
    world = World()
    world.resident = 1000 * MB
    world.watch.look(0, 1000 * MB, settled=True)
    world.resident = 2400 * MB
    room = world.watch.look(1000 * MB, 1000 * MB, settled=True)
    assert (room.nbytes, room.limited_by) == (-100 * MB, "process")
    assert "2.4 GB" in room.why
    assert "1.0 GB that it held" in room.why
    world.resident = 9000 * MB
    assert world.watch.look(1000 * MB, 1000 * MB, settled=True).nbytes == -500 * MB
    assert world.watch.look(500 * MB, 1000 * MB, settled=True).nbytes == 0


def test_a_machine_that_is_short_takes_all_of_the_cache() -> None:
    world = World(available=0.5e9)
    room = world.watch.look(100 * MB, 1000 * MB, settled=True)
    assert (room.nbytes, room.limited_by) == (-500 * MB, "machine")
    world.limits = MemoryLimits(int(1.5e9), int(100e9), "cgroup")
    assert world.watch.look(0, 1000 * MB, settled=True).nbytes == 0  # not again at once
    world.limits = MemoryLimits(int(2.5e9), int(100e9), "cgroup", ranks=5)
    assert world.watch.look(0, 1000 * MB, settled=True).nbytes == 100 * MB


def test_a_growing_cache_is_looked_at_before_a_second_is_over() -> None:
    watch = World().watch
    assert watch.due(0)
    assert not watch.due(31 * MB)
    assert watch.due(32 * MB)
    assert not watch.due(63 * MB)
    assert watch.due(64 * MB)
    watch.next_look = 0.0
    assert watch.due(64 * MB)


@pytest.mark.parametrize("go_on", ["hits", "reservations"])
def test_a_cache_that_takes_in_nothing_shrinks_as_well(go_on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsstcutouts.read.cache.state._SLAB", MB)
    monkeypatch.setattr("lsstcutouts.read.cache.watch._LOOK_SECONDS", 0.0)
    available = [50e9]
    cache = TileCache("100 MB", limits=lambda: MemoryLimits(int(available[0]), int(100e9), "machine"))
    fill(cache, range(50))
    available[0] = 1e9 - 20 * MB
    again: Callable[[], None] = (lambda: fill(cache, range(49, 50))) if go_on == "hits" else lambda: cache.reserve(0)
    again()
    assert cache.stats().bytes == 30 * MB
    assert cache.stats().misses == 50
    available[0] = 50e9
    fill(cache, range(100, 200))
    assert cache.stats().bytes == 100 * MB


def test_ranks_share_the_memory() -> None:
    limits = MemoryLimits(int(8e9), int(10e9), "cgroup")
    cache = TileCache(0.5, limits=lambda: limits)
    assert cache.stats().max_bytes == int(4e9)
    cache.share_among(2, ranks=4)
    assert cache.stats().max_bytes == int(0.5e9)
    cache.share_among(1)
    assert cache.stats().max_bytes == int(1e9)


SHRINKING = """
import numpy as np
from lsstcutouts.read.cache.tile_cache import TileCache, Wanted
from lsstcutouts.read.cache.watch import resident_bytes
cache = TileCache("160 MB")
before = resident_bytes()
claim = cache.claim([Wanted("a", np.arange(1000), np.ones(1000, int), 1000, 90_000, 1000)])
claim.fill(0, claim.missing[0], True)
claim.finish()
claim.end()
filled = resident_bytes()
cache.resize("10 MB")
print(filled - before, resident_bytes() - before)
"""


def test_the_resident_set_follows_a_shrinking_cache() -> None:
    told = subprocess.run([sys.executable, "-c", SHRINKING], check=True, capture_output=True, text=True).stdout
    filled, shrunk = map(int, told.split())
    assert filled > 80 * MB
    assert shrunk < 50 * MB
