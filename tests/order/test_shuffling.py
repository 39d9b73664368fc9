"""The order of an epoch, its batches, shards and splits."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.order.blocks import block_ids
from lsstcutouts.order.sampling import DEFAULT_SHUFFLE_WIDTH, Sampling
from lsstcutouts.order.shuffling import epoch_order, sky_order
from lsstcutouts.plan.splits.groups import split_groups


@given(st.lists(st.integers(0, 20), max_size=200), st.integers(0, 5), st.integers(0, 5), st.integers(1, 40))
def test_an_epoch_is_a_permutation_and_repeats(blocks: list[int], seed: int, epoch: int, width: int) -> None:
    block = np.array(blocks, np.int64)
    order = epoch_order(block, seed=seed, epoch=epoch, shuffle_width=width)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(block)))
    np.testing.assert_array_equal(order, epoch_order(block, seed=seed, epoch=epoch, shuffle_width=width))


def test_epochs_and_seeds_differ() -> None:
    block = np.repeat(np.arange(30), 10)
    orders = [epoch_order(block, seed=s, epoch=e, shuffle_width=8) for s in (0, 1) for e in (0, 1, 2)]
    assert len({o.tobytes() for o in orders}) == 6


@pytest.mark.parametrize("width", [1, 4, 16])
def test_only_so_many_blocks_are_open_at_once(width: int) -> None:
    block = np.repeat(np.arange(200), 50)
    visited = block[epoch_order(block, seed=1, epoch=0, shuffle_width=width)]
    first = np.full(200, len(visited))
    np.minimum.at(first, visited, np.arange(len(visited)))
    last = np.zeros(200, int)
    np.maximum.at(last, visited, np.arange(len(visited)))
    open_now = [((first <= t) & (t <= last)).sum() for t in range(0, len(visited), 97)]
    assert max(open_now) <= width + 1
    assert np.mean(open_now[5:-5]) > 0.7 * width


def test_a_full_shuffle_ignores_blocks() -> None:
    block = np.repeat(np.arange(50), 20)
    order = epoch_order(block, seed=0, epoch=0, shuffle_width=None)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    # Neighbours in the order come from one block as often as two random targets do.
    assert np.mean(np.diff(block[order]) == 0) < 0.05


def test_kinds_of_shuffling() -> None:
    assert [Sampling(kind).kind for kind in (True, False, "block", "full")] == ["block", "none", "block", "full"]
    for wrong in ("none", 1.5, None):
        with pytest.raises(ConfigurationError, match="shuffle must be"):
            Sampling(wrong)  # type: ignore[arg-type]


def test_the_order_over_the_sky_opens_a_block_once() -> None:
    block = np.random.default_rng(0).integers(0, 30, 500)
    visited = block[sky_order(block)]
    assert (np.diff(visited) >= 0).all()


def test_bad_orders() -> None:
    with pytest.raises(ConfigurationError, match="shuffle_width"):
        epoch_order(np.zeros(3, int), seed=0, epoch=0, shuffle_width=0)
    with pytest.raises(ConfigurationError, match="at least 0"):
        epoch_order(np.zeros(3, int), seed=-1, epoch=0, shuffle_width=1)


def test_blocks_never_cross_their_group() -> None:
    ids = block_ids(np.array([3, 3, 4, 3]), np.array([[10, 10], [10, 90], [10, 10], [-5, 10]]), (50, 80))
    assert len(np.unique(ids)) == 4
    assert ids.max() == 3


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=100), st.integers(0, 9))
def test_splits_keep_groups_whole_and_lose_nothing(names: list[str], seed: int) -> None:
    group = np.array(names)
    splits = split_groups(group, {"train": 0.7, "val": 0.3}, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(len(group)))
    assert not set(group[splits["train"]]) & set(group[splits["val"]])


def test_splits_do_not_depend_on_the_order_of_the_rows() -> None:
    group = np.repeat(list("abcdefghij"), 20)
    mixed = np.random.default_rng(0).permutation(group)
    one, two = (split_groups(g, {"train": 0.8, "val": 0.2}, seed=3) for g in (group, mixed))
    assert set(group[one["val"]]) == set(mixed[two["val"]])
    assert len(one["val"]) == 40


def test_fractions_must_add_up() -> None:
    with pytest.raises(ConfigurationError, match="add up to 1"):
        split_groups(np.array(["a"]), {"train": 0.5}, seed=0)


def decodes(order: np.ndarray, patch: np.ndarray, yx0: np.ndarray, capacity: int) -> int:
    """Return the misses of a least-recently-used cache of so many tiles of 150 px, for boxes of 64 px."""
    cache: OrderedDict[tuple[int, int, int], None] = OrderedDict()
    misses = 0
    for p, y, x in zip(patch[order].tolist(), *yx0[order].T.tolist(), strict=True):
        for tile in {(p, (y + a) // 150, (x + b) // 150) for a in (0, 63) for b in (0, 63)}:
            if tile in cache:
                cache.move_to_end(tile)
                continue
            misses += 1
            cache[tile] = None
            if len(cache) > capacity:
                cache.popitem(last=False)
    return misses


def test_few_tiles_are_decoded_twice_at_the_default_width() -> None:
    """Forty patches with 500 targets each: 10 GB of tiles in six bands, through a cache of 0.5 GB."""
    patch, yx0 = np.repeat(np.arange(40), 500), np.random.default_rng(0).integers(0, 3000, (20_000, 2))
    block = block_ids(patch, yx0 + 32, (750, 750))
    order = epoch_order(block, seed=0, epoch=0, shuffle_width=DEFAULT_SHUFFLE_WIDTH)
    distinct = decodes(order, patch, yx0, 10**9)
    capacity = int(0.5e9 / 6 / (150 * 150 * 4))
    assert decodes(order, patch, yx0, capacity) <= 1.3 * distinct
    # What blocks are for: a full permutation would decode nearly every tile for every target.
    full = np.random.default_rng(0).permutation(20_000)
    assert decodes(full, patch, yx0, capacity) > 1.9 * distinct
