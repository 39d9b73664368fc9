"""The tile cache: claims, order, bound, waiting, processes."""

import logging
import multiprocessing
import pickle
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.read.cache.stats import CacheStats
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.source.limits import MemoryLimits

from ..support.claims import collect_inside, fetch, fill, filled, wanted
from ..support.examples import examples

QUARTER = 249_600
"""Bytes of a tile of which four fit into a budget of 1 MB; each is a slab of its own."""


def there(cache: TileCache, key: str, tiles: range | list[int], nbytes: int = QUARTER) -> list[bool]:
    """Return which tiles are in the cache, leaving it as it is."""
    block = cache._state().blocks.get(key)
    return [block is not None and block.pool.nbytes == nbytes and block.slots[tile] >= 0 for tile in tiles]


def test_tiles_are_made_once_and_in_order() -> None:
    cache = TileCache("1 MB")
    assert fetch(cache, wanted("a", [3, 1, 2])) == [3, 1, 2]
    assert fetch(cache, wanted("a", [2, 4, 3])) == [4]
    assert fetch(cache, wanted("b", [2, 4])) == [2, 4]
    assert len(cache) == 6


def test_planes_of_several_sizes_are_claimed_together() -> None:
    cache = TileCache("4 MB")
    wishes = wanted("a", [1, 2], 90_000), wanted("b", [0, 1, 5], 700), wanted("c", [7], 90_000)
    assert fetch(cache, *wishes) == [1, 2, 0, 1, 5, 7]
    assert fetch(cache, *wishes) == []


def test_the_least_recently_used_goes_first() -> None:
    cache = TileCache(1_000_000)
    for tile in (1, 2, 3, 4):
        fetch(cache, wanted("a", [tile], QUARTER))
    fetch(cache, wanted("a", [1], QUARTER))
    fetch(cache, wanted("a", [5], QUARTER))
    assert there(cache, "a", [1, 2, 3, 4, 5]) == [True, False, True, True, True]
    assert cache.stats().evictions == 1
    assert cache.stats().bytes == 4 * QUARTER


@examples(60)
@given(requests=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True), max_size=25))
def test_any_sequence_of_claims_equals_a_plain_model(requests: list[list[int]]) -> None:
    cache, model = TileCache(1_000_000), OrderedDict[int, int]()
    hits = misses = 0
    for now, tiles in enumerate(requests):
        missing = [tile for tile in tiles if tile not in model]
        assert fetch(cache, wanted("a", tiles, QUARTER, count=13)) == missing
        for tile in tiles:
            model[tile] = now
            model.move_to_end(tile)
        while len(model) > 4:
            model.popitem(last=False)
        hits, misses = hits + len(tiles) - len(missing), misses + len(missing)
        stats = cache.stats()
        assert (stats.hits, stats.misses, stats.entries) == (hits, misses, len(model))
        assert stats.bytes == QUARTER * len(model) <= 1_000_000
        # Of tiles that were used together any may go first.
        oldest = min(model.values())
        assert {tile for tile, used in model.items() if used > oldest} <= {
            tile for tile in range(13) if there(cache, "a", [tile])[0]
        }
        model = OrderedDict((tile, used) for tile, used in model.items() if there(cache, "a", [tile])[0]) | {
            tile: oldest for tile in range(13) if there(cache, "a", [tile])[0] and tile not in model
        }
        model = OrderedDict(sorted(model.items(), key=lambda item: item[1]))


def test_larger_than_the_budget_is_there_until_its_claim_ends() -> None:
    cache = TileCache(1_000_000)
    claim = filled(cache, wanted("a", list(range(9)), QUARTER))
    assert cache.stats().bytes == 9 * QUARTER
    claim.end()
    assert cache.stats().bytes <= 1_000_000
    assert fetch(cache, wanted("big", [0], 1_000_001, count=1)) == [0]
    assert cache.stats().bytes <= 1_000_000
    assert fetch(cache, wanted("big", [0], 1_000_001, count=1)) == [0]


def test_no_budget_keeps_nothing() -> None:
    cache = TileCache(0)
    assert fetch(cache, wanted("a", [1, 2])) == [1, 2]
    assert (len(cache), cache.stats().bytes) == (0, 0)


def test_slabs_go_to_the_size_that_is_used() -> None:
    cache = TileCache(1_000_000)
    fetch(cache, wanted("a", [0, 1, 2, 3], QUARTER))
    for tile in range(4):
        fetch(cache, wanted("b", [tile], QUARTER + 512, count=4))
    assert sum(there(cache, "b", range(4), QUARTER + 512)) == 3  # a fourth does not fit
    assert sum(there(cache, "a", range(4))) == 0
    assert cache.stats().bytes <= 1_000_000


def test_requests_are_counted_as_tiles() -> None:
    cache = TileCache("1 MB")
    fetch(cache, wanted("a", [1, 2], requests=11))
    assert (cache.stats().hits, cache.stats().misses) == (9, 2)
    before = cache.stats()
    fetch(cache, wanted("a", [1, 2], requests=9))
    since = cache.stats() - before
    assert (since.hits, since.misses, since.hit_rate) == (9, 0, 1.0)
    assert since.entries == 2
    assert CacheStats().hit_rate == 0.0


def test_more_rows_are_decoded_again_and_who_has_fewer_keeps_them() -> None:
    cache = TileCache("1 MB")
    shallow = filled(cache, wanted("a", [1], rows=2))
    before = shallow.view(0, 0, np.dtype(np.uint8), (960,))
    assert fetch(cache, wanted("a", [1], rows=1)) == []
    deep = cache.claim([wanted("a", [1], rows=3)])
    assert deep.missing[0].tolist() == [0]
    assert deep.addresses(0)[0] != shallow.addresses(0)[0]
    kept = before.copy()
    deep.view(0, 0, np.dtype(np.uint8), (960,))[:] = 255
    np.testing.assert_array_equal(before, kept)
    deep.fill(0, deep.missing[0], True)
    deep.finish()
    del deep, shallow, before
    assert cache.claim([wanted("a", [1], rows=2)]).missing[0].tolist() == []
    assert len(cache) == 1


def test_what_is_claimed_is_not_emptied() -> None:
    cache = TileCache(1_000_000)
    held = filled(cache, wanted("a", [0, 1], QUARTER))
    pixels = [held.view(0, i, np.dtype(np.uint8), (QUARTER,)) for i in range(2)]
    before = [one.copy() for one in pixels]
    for tile in range(2, 30):
        fetch(cache, wanted("a", [tile], QUARTER))
    for one, same in zip(pixels, before, strict=True):
        np.testing.assert_array_equal(one, same)
    cache.clear()
    fetch(cache, wanted("b", [0, 1, 2, 3], QUARTER))
    for one, same in zip(pixels, before, strict=True):
        np.testing.assert_array_equal(one, same)


def test_what_is_filled_while_the_cache_is_cleared_is_not_kept() -> None:
    cache = TileCache("1 MB")
    wish = wanted("a", [1, 2])
    claim = cache.claim([wish])
    cache.clear()
    fill(claim, [wish])
    claim.finish()
    assert not claim.lacks()
    claim.end()
    assert len(cache) == 0
    assert fetch(cache, wish) == [1, 2]
    assert len(cache) == 2


def test_clear_and_resize() -> None:
    cache = TileCache("4 MB")
    fetch(cache, wanted("a", list(range(8)), 499_200))
    cache.resize("2 MB")
    assert cache.stats().bytes == 4 * 499_200
    cache.clear()
    assert len(cache) == 0
    assert cache.stats().misses == 8
    assert fetch(cache, wanted("a", [3], 499_200)) == [3]


def test_a_budget_shared_among_processes() -> None:
    cache = TileCache("4 MB")
    fetch(cache, wanted("a", list(range(8)), 499_200))
    cache.share_among(4)
    assert cache.stats().max_bytes == 1_000_000
    assert cache.stats().bytes == 2 * 499_200
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.stats().max_bytes == 1_000_000
    cache.share_among(1)
    assert cache.stats().max_bytes == 4_000_000
    with pytest.raises(ConfigurationError, match="processes=0"):
        cache.share_among(0)


def test_what_was_not_filled_is_not_kept() -> None:
    cache = TileCache("1 MB")
    for _ in range(2):
        wish = wanted("a", [1, 2, 3])
        claim = cache.claim([wish])
        claim.fill(0, np.array([1]), True)
        claim.finish()
        claim.end()
        assert len(cache) == 1
        cache.clear()
    cache.claim([wanted("a", [1, 2])])  # dropped at once
    assert fetch(cache, wanted("a", [1, 2])) == [1, 2]


# Claims that wait for each other


def test_a_claim_waits_for_what_another_fills() -> None:
    cache = TileCache("1 MB")
    first_wish, second_wish = wanted("a", [1, 2]), wanted("a", [2, 3])
    first = cache.claim([first_wish])
    second = cache.claim([second_wish])
    assert [claim.missing[0].tolist() for claim in (first, second)] == [[0, 1], [1]]
    fill(second, [second_wish])
    second.finish()
    assert second.is_waiting()
    fill(first, [first_wish])
    first.finish()
    assert not second.is_waiting()
    assert not second.lacks()
    assert second.addresses(0)[0] == first.addresses(0)[1]
    assert not first.waits
    assert cache.stats().waits == 1


@pytest.mark.parametrize("how", ["not filled", "dropped"])
def test_a_claim_that_waited_in_vain_says_so(how: str) -> None:
    cache = TileCache("1 MB")
    first, wish = cache.claim([wanted("a", [1])]), wanted("a", [1, 2])
    second = cache.claim([wish])
    fill(second, [wish])
    second.finish()
    if how == "not filled":
        first.finish()
    else:
        del first
    assert not second.is_waiting()
    assert second.lacks()
    second.end()
    assert fetch(cache, wish) == [1]


def test_many_threads_within_a_tight_budget() -> None:
    """Whatever the others do, each finds its own pixels in what it has claimed."""
    cache = TileCache(1_000_000)

    def ask(seed: int) -> int:
        rng, requests = np.random.default_rng(seed), 0
        for _ in range(60):
            tiles = np.unique(rng.integers(0, 60, 8)).tolist()
            filled(cache, wanted("a", tiles, 50_000), wanted("b", tiles[:2], 20_000))
            requests += len(tiles) + len(tiles[:2])
        return requests

    with ThreadPoolExecutor(6) as pool:
        requests = sum(pool.map(ask, range(6)))
    stats = cache.stats()
    assert stats.hits + stats.misses >= requests
    assert stats.bytes <= 1_000_000
    state = cache._state()
    assert not state.flights
    assert not any(pool.pins.any() for pool in state.pools.values())
    assert {key: block.held for key, block in state.blocks.items()} == {
        key: int((block.slots >= 0).sum()) for key, block in state.blocks.items()
    }


def test_claims_that_are_collected_while_the_cache_is_locked_lock_nothing() -> None:
    cache = TileCache("1 MB")
    ring: list[Any] = [cache.claim([wanted("a", [1])])]
    ring.append(ring)
    del ring
    collect_inside(cache)
    assert fetch(cache, wanted("a", [1])) == [1]


# Processes


def in_child(cache: TileCache, queue: Any) -> None:
    made = fetch(cache, wanted("a", [1, 2]))
    queue.put((made, len(cache), cache.stats().misses))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)  # the case at hand
def test_another_process_starts_empty(method: str) -> None:
    cache = TileCache("1 MB")
    fetch(cache, wanted("a", [1]))
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
    fetch(cache, wanted("a", [1]))
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


MEGABYTE = 998_400


def test_the_cache_shrinks_while_memory_is_short(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lsstcutouts.read.cache.watch._LOOK_SECONDS", 0.0)
    monkeypatch.setattr("lsstcutouts.read.cache.state._SLAB", MEGABYTE)
    pressure = Pressure(2e9)
    cache = TileCache("100 MB", limits=pressure)
    fetch(cache, wanted("a", list(range(50)), MEGABYTE, count=300))
    # Five percent of 4 GB should stay free; 30 MB of that are gone.
    pressure.now = limits(170e6, 4e9)
    with caplog.at_level(logging.WARNING, "lsstcutouts"):
        fetch(cache, wanted("a", [100], MEGABYTE, count=300))
        fetch(cache, wanted("a", [101], MEGABYTE, count=300))
    assert cache.stats().bytes < 25_000_000
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "decreases from 51 MB to 21 MB" in caplog.text
    pressure.now = limits(2e9, 4e9)
    fetch(cache, wanted("a", list(range(200, 290)), MEGABYTE, count=300))
    assert cache.stats().bytes == 90 * MEGABYTE


def test_the_machine_is_looked_at_once_a_second_at_most() -> None:
    looks = [0]

    def count() -> MemoryLimits:
        looks[0] += 1
        return limits(2e9)

    cache = TileCache("1 MB", limits=count)
    for tile in range(100):
        fetch(cache, wanted("a", [tile]))
    assert looks[0] <= 4


def test_trouble_with_the_limits_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsstcutouts.read.cache.watch._LOOK_SECONDS", 0.0)
    trouble = [False]

    def unreadable() -> MemoryLimits:
        if trouble[0]:
            raise PermissionError("/sys is closed")
        return limits(2e9)

    cache = TileCache("1 MB", limits=unreadable)
    fetch(cache, wanted("a", [0]))
    trouble[0] = True
    with pytest.raises(PermissionError):
        fetch(cache, wanted("a", [1]))
    trouble[0] = False
    assert fetch(cache, wanted("a", [1])) == [1]  # waits for ever if the failed claim had not ended
