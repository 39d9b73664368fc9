"""Weights, class balance and the size of an epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts import Sampling
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.order.epochs import Epochs
from lsstcutouts.order.weighted import balanced, checked_classes, checked_weights, repeats, sample_rows
from lsstcutouts.order.world import World

WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=60).filter(any)


@given(WEIGHTS, st.integers(1, 300), st.integers(0, 5), st.integers(0, 5))
def test_each_row_is_drawn_its_expected_number_of_times(weights: list[float], size: int, seed: int, epoch: int) -> None:
    """Rounded down or up, whatever the weights; and as many as asked for."""
    array = np.array(weights)
    rows = sample_rows(array, size, seed=seed, epoch=epoch)
    counts = np.bincount(rows, minlength=len(array))
    expected = size * array / array.sum()
    assert len(rows) == size
    assert (counts >= np.floor(expected - 1e-6)).all()
    assert (counts <= np.ceil(expected + 1e-6)).all()
    assert not counts[array == 0].any()
    np.testing.assert_array_equal(rows, sample_rows(array, size, seed=seed, epoch=epoch))


def test_fractions_are_drawn_in_the_long_run() -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0, 0.5])
    counts = sum(np.bincount(sample_rows(weights, 4, seed=0, epoch=e), minlength=5) for e in range(4000))
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=0.005)


def test_with_replacement_the_draws_are_independent() -> None:
    weights = np.array([1.0, 3.0, 0.0])
    counts = np.array(
        [np.bincount(sample_rows(weights, 8, seed=0, epoch=e, replacement=True), minlength=3) for e in range(4000)]
    )
    assert not counts[:, 2].any()
    assert counts[:, 1].mean() == pytest.approx(6.0, abs=0.1)
    assert counts[:, 1].var() == pytest.approx(8 * 0.25 * 0.75, rel=0.1)  # binomial


@given(st.lists(st.integers(0, 2), min_size=1, max_size=50))
def test_balanced_classes_count_the_same(labels: list[int]) -> None:
    _, stratum = np.unique(labels, return_inverse=True)
    for weights in (None, np.arange(1.0, len(labels) + 1)):
        np.testing.assert_allclose(np.bincount(stratum, weights=balanced(stratum, weights)), 1.0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 100), st.integers(0, 9))
def test_a_balanced_epoch_holds_as_many_of_each_class(labels: list[int], size: int, epoch: int) -> None:
    _, stratum = np.unique(labels, return_inverse=True)
    epochs = Epochs(np.zeros(len(labels), np.int64), 10, sampling=Sampling(balance=stratum, epoch_size=size))
    rows, repeat = epochs.order(epoch)
    assert len(rows) == size
    assert np.ptp(np.bincount(stratum[rows], minlength=stratum.max() + 1)) <= 1
    assert repeat is not None
    assert len({*zip(rows.tolist(), repeat.tolist(), strict=True)}) == size


def test_repeats_count_from_nought() -> None:
    np.testing.assert_array_equal(repeats(np.array([0, 2, 2, 2, 5, 5])), [0, 0, 1, 2, 0, 1])


def test_an_epoch_may_be_a_part_of_the_targets() -> None:
    epochs = Epochs(np.repeat(np.arange(10), 10), 8, sampling=Sampling(epoch_size=30))
    first, second = (epochs.order(e).rows for e in (0, 1))
    assert len(np.unique(first)) == 30
    assert set(first.tolist()) != set(second.tolist())


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_ranks_share_what_is_drawn(ranks: int) -> None:
    weights = np.random.default_rng(0).random(40)
    run = [
        Epochs(np.repeat(np.arange(8), 5), 4, World(r, ranks), sampling=Sampling(weights=weights, epoch_size=97))
        for r in range(ranks)
    ]
    rows = np.concatenate([run[0].order(2).rows[low:high] for e in run for low, high, _ in e.bounds.tolist()])
    counts = np.bincount(rows, minlength=40)
    expected = 97 * weights / weights.sum()
    assert len(rows) == 97 - run[0].schedule.left_out
    assert (counts <= np.ceil(expected)).all()


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, -1.0], "not negative; 1 of 2 are not, the first is -1.0 of target 1"),
        ([np.nan, 1.0], "the first is nan of target 0"),
        ([0.0, 0.0], "a positive weight"),
        (["a", "b"], "one number per target"),
        ([[1.0]], "shape"),
    ],
)
def test_weights_that_cannot_be(weights, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        checked_weights(weights)


def test_epochs_that_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="epoch_size"):
        Epochs(np.zeros(3, np.int64), 2, sampling=Sampling(epoch_size=0))
    with pytest.raises(ConfigurationError, match="weights has 2 values for 3 targets"):
        Epochs(np.zeros(3, np.int64), 2, sampling=Sampling(weights=np.ones(2)))
    with pytest.raises(ConfigurationError, match="there is none"):
        Epochs(np.zeros(0, np.int64), 2, sampling=Sampling(weights=np.ones(0)))


@pytest.mark.parametrize(
    "classes",
    [[1.0, np.nan, 0.0], np.array([1, np.inf, 2]), ["a", "", "b"], ["a", " ", "b"], np.array(["a", None, "b"], object)],
)
def test_a_missing_class_is_no_class(classes) -> None:
    """It would be drawn as often as every other class."""
    with pytest.raises(ConfigurationError, match=r"no class for 1 of 3 targets, the first is target 1; .*select="):
        checked_classes(classes)


def test_classes_are_numbers_or_words() -> None:
    for classes in (
        [3, -1, 3],
        [0.5, 0.1, 0.5],
        ["b", "a", "b"],
        np.array([True, False, True]),
        np.array([2**64 - 1, 1, 2**64 - 1]),
    ):
        assert checked_classes(classes).tolist() == [1, 0, 1]
    with pytest.raises(ConfigurationError, match="one class per target"):
        checked_classes([[1, 2]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_a_weight_that_is_none_is_refused_with_advice(bad: float) -> None:
    with pytest.raises(ConfigurationError, match=r"1 of 3 are not, the first is .* of target 2; .*select="):
        checked_weights([1.0, 2.0, bad])
