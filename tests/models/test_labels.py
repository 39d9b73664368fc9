"""Labels that can be learned from, and those that cannot."""

import numpy as np
import pytest

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.models.labels import check_binary, check_finite, class_numbers, class_values, median_and_spread


@pytest.mark.parametrize("values", [np.array([0, 1, 1]), np.array([0.0, 1.0]), np.array([True, False]), np.zeros(3)])
def test_binary_labels(values: np.ndarray) -> None:
    check_binary(values, "label")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([0, 0.37, 1]), r"'label' contains 0\.37, but task=binary needs 0 and 1 only; use task=regression"),
        (np.array([-1, 1]), r"contains -1, .*use task=classes"),
        (np.array([0, 1, 2]), r"contains 2, .*use task=classes"),
        (["yes", "no"], r"contains strings \('no', 'yes'\); .*task=classes for strings"),
        (
            np.array([0, np.nan, 1]),
            r'1 of 3 labels in column .label. are NaN.*data\.splits\.select="abs\(label\) < 1e30"',
        ),
        (np.zeros((3, 2)), r"shape \(3, 2\); it must have one value per target"),
    ],
)
def test_labels_that_are_not_binary(values: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_binary(values, "label")  # type: ignore[arg-type]


def test_classes_are_texts_or_whole_numbers_with_any_gaps() -> None:
    assert class_values(["star", "qso", "star", "galaxy"], "kind") == ["galaxy", "qso", "star"]
    assert class_values(np.array([7, 0, 2, 7], np.int8), "n") == [0, 2, 7]
    assert class_values(np.array([1.0, 3.0]), "n") == [1, 3]
    assert class_values(np.array([True, False]), "n") == [0, 1]
    assert class_numbers(np.array([7, 0, 2]), [0, 2, 7], "n").tolist() == [2, 0, 1]
    assert class_numbers(["a", "b"], ["b", "a"], "kind").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([0.5, 1.5]), "task=classes needs strings or integers; use task=regression"),
        (np.array([1, 1]), "has 1 distinct values"),
        (np.arange(1001), "has 1001 distinct values"),
        (["a", "", "b"], "1 of 3 labels in column 'kind' are empty"),
        (np.array([0, np.inf]), "1 of 2 labels"),
    ],
)
def test_labels_that_are_no_classes(values: object, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        class_values(values, "kind")  # type: ignore[arg-type]


def test_a_label_that_is_none_of_the_classes() -> None:
    with pytest.raises(ConfigurationError, match=r"contains 3, which is not one of the classes \(0, 2\)"):
        class_numbers(np.array([0, 3]), [0, 2], "n")
    with pytest.raises(
        ConfigurationError, match=r"contains 'qso', which is not one of the classes \('star', 'galaxy'\)"
    ):
        class_numbers(["star", "qso"], ["star", "galaxy"], "kind")


def test_median_and_spread_are_robust() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(20.0, 2.0, 4000), [1e9]])
    middle, spread = median_and_spread(values, "mag")
    assert (middle, spread) == (pytest.approx(20, abs=0.1), pytest.approx(2, abs=0.1))
    assert median_and_spread(np.array([0, 0, 0, 8.0]), "x") == (0.0, pytest.approx(np.std([0, 0, 0, 8])))
    with pytest.raises(ConfigurationError, match="all 3 labels in column 'x' are 5"):
        median_and_spread(np.full(3, 5), "x")
    with pytest.raises(ConfigurationError, match="task=regression needs numbers"):
        check_finite(["a"], "x")
