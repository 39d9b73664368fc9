"""How good a shuffle is."""

import numpy as np
import pytest

from benchmarks.shuffle_quality import batch_correlation, nearest, neighbour_distance
from lsstcutouts.order.shuffling import epoch_order


def field(count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, patches and blocks of targets over 20 patches of 1000 px."""
    rng = np.random.default_rng(0)
    patch, yx = rng.integers(0, 20, count), rng.integers(0, 1000, (count, 2))
    return yx, patch, patch * 4 + yx[:, 0] // 500 * 2 + yx[:, 1] // 500


def test_the_nearest_row_is_the_nearest() -> None:
    yx, patch, _ = field(300)
    found = nearest(yx, patch)
    for row in range(300):
        others = [o for o in range(300) if o != row and patch[o] == patch[row]]
        distances = [np.hypot(*(yx[o] - yx[row])) for o in others]
        assert np.hypot(*(yx[found[row]] - yx[row])) == min(distances)
    np.testing.assert_array_equal(nearest([[0, 0], [5, 5]], np.array([0, 1])), [-1, -1])


def test_a_full_permutation_is_what_others_are_measured_by() -> None:
    yx, patch, block = field()
    neighbour = nearest(yx, patch)
    label = np.random.default_rng(1).random(20)[patch] > 0.5
    full = epoch_order(block, seed=0, epoch=0, shuffle_width=None)
    assert neighbour_distance(full, neighbour) == pytest.approx(1.0, abs=0.05)
    assert batch_correlation(full, label, 50) == pytest.approx(0.0, abs=0.02)
    sky = np.argsort(block, kind="stable")
    assert neighbour_distance(sky, neighbour) < 0.1
    assert batch_correlation(sky, label, 50) > 0.8


def test_wider_is_better() -> None:
    yx, patch, block = field()
    neighbour = nearest(yx, patch)
    label = np.random.default_rng(1).random(20)[patch] > 0.5
    orders = [epoch_order(block, seed=0, epoch=0, shuffle_width=width) for width in (1, 4, 16, 64)]
    distances = [neighbour_distance(order, neighbour) for order in orders]
    correlations = [batch_correlation(order, label, 50) for order in orders]
    assert distances == sorted(distances)
    assert correlations == sorted(correlations, reverse=True)


def test_labels_that_are_all_the_same_have_no_correlation() -> None:
    assert batch_correlation(np.arange(100), np.ones(100), 10) == 0.0
    assert batch_correlation(np.arange(5), np.arange(5), 10) == 0.0
