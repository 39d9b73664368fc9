"""Lanes and shares: what every rank and worker reads, over a grid of worlds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts import Sampling
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.order.epochs import Epochs
from lsstcutouts.order.lanes import lane_ids, lane_lengths
from lsstcutouts.order.sampling import Shuffle
from lsstcutouts.order.schedule import Schedule
from lsstcutouts.order.shuffling import sky_order
from lsstcutouts.order.world import World

FEW = {*range(1, 9), 12, 16, 31, 32, 33, 63, 64}
WORLDS = [ranks if ranks in FEW else pytest.param(ranks, marks=pytest.mark.slow) for ranks in range(1, 65)]
WORKERS = range(9)

type Steps = list[tuple[np.ndarray, bool]]


def parts(epochs: Epochs, epoch: int, workers: int, done: int = 0, rows: np.ndarray | None = None) -> Steps:
    """Return rows and padding of each step, as the processes of one rank read them and its loader puts them in turn."""
    rows, bounds = epochs.order(epoch).rows if rows is None else rows, epochs.bounds
    processes = [iter(bounds[done + w :: max(1, workers)].tolist()) for w in range(max(1, workers))]
    steps = []
    for step in range(len(bounds) - done):
        low, high, padding = next(processes[step % len(processes)])
        steps.append((rows[low:high], bool(padding)))
    assert all(next(p, None) is None for p in processes)
    return steps


def world(count: int, batch_size: int, ranks: int, *, shuffle: Shuffle = True, **changes) -> list[Epochs]:
    block = np.sort(np.random.default_rng(count).integers(0, max(1, count // 7), count))
    _, block = np.unique(block, return_inverse=True)
    return [
        Epochs(block, batch_size, World(rank, ranks), sampling=Sampling(shuffle=shuffle, shuffle_width=3), **changes)
        for rank in range(ranks)
    ]


def read_by(run: list[Epochs], epoch: int, workers: int) -> list[Steps]:
    """Return the steps of every rank; the order, which each rank works out for itself, is the same for all."""
    rows = run[0].order(epoch).rows
    np.testing.assert_array_equal(rows, run[-1].order(epoch).rows)
    return [parts(e, epoch, workers, rows=rows) for e in run]


def check_training(count: int, batch_size: int, ranks: int, workers: int, epoch: int, **changes) -> None:
    read = read_by(world(count, batch_size, ranks, **changes), epoch, workers)
    assert len({len(steps) for steps in read}) == 1  # as many steps on every rank
    lengths = np.array([[len(rows) for rows, _ in steps] for steps in read])
    assert lengths.min(initial=1) >= 1
    assert lengths.max(initial=0) <= batch_size
    assert np.ptp(lengths, axis=0).max(initial=0) <= 1
    assert not any(padding for steps in read for _, padding in steps)
    rows = np.sort(np.concatenate([rows for steps in read for rows, _ in steps]))
    assert len(rows) == len(np.unique(rows))  # none twice
    rest = count % (batch_size * ranks)
    assert count - len(rows) == (rest if rest < ranks else 0)  # none lost but a remainder that cannot be shared
    if ranks == 1:
        assert len(rows) == count


@pytest.mark.parametrize("ranks", WORLDS)
def test_every_world_reads_each_target_once(ranks: int) -> None:
    """1 to 64 ranks with 0 to 8 workers each; counts around the edges of a global batch."""
    for batch_size in (1, 3, 8):
        whole = batch_size * ranks
        counts = {
            ranks,
            ranks + 1,
            whole - 1,
            whole,
            whole + 1,
            2 * whole + ranks - 1,
            3 * whole - 1,
            3 * whole + ranks,
        }
        for count in sorted(c for c in counts if c >= ranks):
            for workers in WORKERS if batch_size == 3 else (0, 2):
                for shuffle in (True, False):
                    check_training(count, batch_size, ranks, workers, epoch=count % 3, shuffle=shuffle)


@pytest.mark.parametrize("ranks", WORLDS)
def test_every_world_validates_each_target_once(ranks: int) -> None:
    for batch_size in (1, 3):
        whole = batch_size * ranks
        for count in {0, 1, ranks - 1, ranks, whole + 1, 2 * whole + 1, 2 * whole + ranks - 1}:
            for workers in WORKERS if batch_size == 3 else (0,):
                read = read_by(world(count, batch_size, ranks, pads=True, shuffle=False), 0, workers)
                assert {len(steps) for steps in read} == {-(-count // whole)}
                assert all(len(rows) >= 1 for steps in read for rows, _ in steps)
                real = [rows for steps in read for rows, padding in steps if not padding]
                np.testing.assert_array_equal(np.sort(np.concatenate([*real, []])), np.arange(count))
                padded = [len(rows) for steps in read for rows, padding in steps if padding]
                assert padded == [1] * len(padded)
                assert len(padded) < ranks


@given(
    count=st.integers(1, 400),
    batch_size=st.integers(1, 20),
    ranks=st.integers(1, 64),
    workers=st.integers(0, 8),
    lanes=st.integers(1, 64),
    epoch=st.integers(0, 5),
    shuffle=st.sampled_from([True, False, "full"]),
)
def test_any_world(count, batch_size, ranks, workers, lanes, epoch, shuffle) -> None:
    if count >= ranks:
        check_training(count, batch_size, ranks, workers, epoch, lanes=lanes, shuffle=shuffle)


@given(
    count=st.integers(16, 300),
    lanes=st.sampled_from([1, 2, 3, 4, 8]),
    before=st.sampled_from([1, 2, 4, 8]),
    after=st.sampled_from([1, 2, 4, 8, 16]),
    data=st.data(),
)
def test_another_world_goes_on_exactly(count, lanes, before, after, data) -> None:
    """The rows of each step do not depend on the number of ranks, if all together take as many."""
    first, second = (world(count, 16 // ranks, ranks, lanes=lanes) for ranks in (before, after))
    # Only where one of them must leave out a remainder that the other can share do they differ.
    if first[0].schedule.left_out != second[0].schedule.left_out:
        return
    done = data.draw(st.integers(0, first[0].schedule.steps))
    for step in range(done, first[0].schedule.steps):
        one, other = (np.sort(np.concatenate([parts(e, 1, 0)[step][0] for e in run])) for run in (first, second))
        np.testing.assert_array_equal(one, other)


@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 20))
def test_lanes_are_equal_parts_of_the_sky(blocks: list[int], lanes: int) -> None:
    _, block = np.unique(np.array(blocks, np.int64), return_inverse=True)
    lane = lane_ids(block, lanes)
    np.testing.assert_array_equal(np.bincount(lane, minlength=lanes), lane_lengths(len(block), lanes))
    pairs = np.unique(np.column_stack([block, lane]), axis=0)
    assert len(pairs) - len(np.unique(block)) <= lanes - 1  # blocks that are divided
    by_sky = np.argsort(block, kind="stable")
    assert (np.diff(lane[by_sky]) >= 0).all()


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_rank_reads_its_own_lane_in_every_epoch(ranks: int, shuffle: bool) -> None:
    block = np.repeat(np.arange(40), 25)
    lane = lane_ids(block, ranks)
    for rank in range(ranks):
        epochs = Epochs(block, 4, World(rank, ranks), sampling=Sampling(shuffle=shuffle, shuffle_width=4))
        for epoch in (0, 1, 5):
            rows = np.concatenate([rows for rows, _ in parts(epochs, epoch, 0)])
            assert set(lane[rows].tolist()) == {rank}


def test_only_so_many_blocks_of_a_lane_are_open() -> None:
    block = np.repeat(np.arange(400), 50)
    epochs = Epochs(block, 20, World(1, 4), sampling=Sampling(shuffle_width=8))
    visited = block[np.concatenate([rows for rows, _ in parts(epochs, 0, 0)])]
    first, last = np.full(400, len(visited)), np.zeros(400, int)
    np.minimum.at(first, visited, np.arange(len(visited)))
    np.maximum.at(last, visited, np.arange(len(visited)))
    assert max(((first <= t) & (t <= last)).sum() for t in range(0, len(visited), 97)) <= 9


def test_one_lane_is_the_order_of_one_process() -> None:
    block = np.repeat(np.arange(40), 25)
    alone, shared = Epochs(block, 8), Epochs(block, 2, World(0, 4), lanes=1)
    np.testing.assert_array_equal(alone.order(3).rows, shared.order(3).rows)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_remainder_is_another_one_in_each_epoch(shuffle: bool) -> None:
    """19 rows, 8 ranks of 2: three rows cannot be shared; in 19 epochs each row is left out three times."""
    run = world(19, 2, 8, shuffle=shuffle)
    assert run[0].schedule.left_out == 3
    missing = [
        np.setdiff1d(np.arange(19), np.concatenate([rows for e in run for rows, _ in parts(e, epoch, 0)]))
        for epoch in range(19)
    ]
    np.testing.assert_array_equal(np.bincount(np.concatenate(missing), minlength=19), np.full(19, 3))


def test_batches_of_one_process() -> None:
    np.testing.assert_array_equal(Schedule(10, 4).bounds(0), [[0, 4, 0], [4, 8, 0], [8, 10, 0]])


def test_what_cannot_be_shared() -> None:
    with pytest.raises(ConfigurationError, match="batch_size"):
        Schedule(10, 0)
    with pytest.raises(ConfigurationError, match="3 targets are too few for 4 ranks"):
        Schedule(3, 8, 4)
    with pytest.raises(ConfigurationError, match="at least 1"):
        Schedule(3, 8, 0)
    with pytest.raises(ConfigurationError, match="lane"):
        lane_lengths(3, 0)
    assert Schedule(3, 8, 4, pads=True).steps == 1


def test_the_sky_order_takes_one_of_every_lane_in_turn() -> None:
    block = np.repeat(np.arange(4), 5)
    np.testing.assert_array_equal(lane_ids(block, 2)[sky_order(block, 2)], np.tile([0, 1], 10))
