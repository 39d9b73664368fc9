"""Checks of labels: the catalog column that a network learns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError

__all__ = ["Labels", "check_binary", "check_finite", "class_numbers", "class_values", "median_and_spread"]

type Labels = NDArray[Any] | Sequence[str]

_MOST_CLASSES = 1000
"""Number of classes of ImageNet. A column with more distinct values probably holds ids or measurements."""


def check_binary(values: Labels, name: str) -> None:
    """Check that labels are 0 and 1.

    Parameters
    ----------
    values
        ``(N,)`` labels.
    name
        Name of the column, for messages.

    Raises
    ------
    ConfigurationError
        If there is any other value.
    """
    numbers = _numbers(
        values,
        name,
        "task=binary needs 0 and 1; use task=classes for strings, where score_CLASS is the score of one class",
    )
    other = np.unique(numbers[(numbers != 0) & (numbers != 1)])
    if len(other):
        better = "regression" if _has_fractions(other) else "classes"
        raise ConfigurationError(
            f"the label column {name!r} contains {_examples(other.tolist())}, but task=binary needs 0 and 1 only; use "
            f"task={better}"
        )


def check_finite(values: Labels, name: str) -> None:
    """Check that labels ``(N,)`` are finite numbers.

    Raises
    ------
    ConfigurationError
        If they are not.
    """
    _numbers(values, name, "task=regression needs numbers; use task=classes for strings")


def class_values(values: Labels, name: str) -> list[int] | list[str]:
    """Return the distinct labels, sorted: strings, or integers (not necessarily consecutive).

    Raises
    ------
    ConfigurationError
        If there are fewer than 2 or more than 1000, an empty string, or a number that is not an integer.
    """
    if _is_text(values):
        found: list[Any] = sorted(set(values))
        if "" in found:
            raise ConfigurationError(
                f"{list(values).count('')} of {len(values)} labels in column {name!r} are empty; remove these rows from "
                f"the catalog or exclude them with data.splits.select=\"{name} != ''\""
            )
    else:
        numbers = np.unique(_numbers(values, name, ""))
        if _has_fractions(numbers):
            raise ConfigurationError(
                f"the label column {name!r} contains {_examples(numbers.tolist())}, but task=classes needs strings or "
                "integers; use task=regression"
            )
        found = numbers.astype(np.int64).tolist()
    if not 2 <= len(found) <= _MOST_CLASSES:
        raise ConfigurationError(
            f"the label column {name!r} has {len(found)} distinct values ({_examples(found)}), but task=classes needs 2 to "
            f"{_MOST_CLASSES}"
        )
    return found


def class_numbers(values: Labels, classes: Sequence[int] | Sequence[str], name: str) -> NDArray[np.int64]:
    """Return the class index of each label, ``(N,)`` int64.

    Raises
    ------
    ConfigurationError
        If a label is not one of the classes.
    """
    number = {value: i for i, value in enumerate(classes)}
    plain = (
        list(values) if _is_text(values) else _numbers(values, name, f"the classes are {_examples(classes)}").tolist()
    )
    unknown = sorted({value for value in plain if value not in number}, key=str)
    if unknown:
        raise ConfigurationError(
            f"the label column {name!r} contains {_examples(unknown)}, which is not one of the classes ({_examples(classes)})"
        )
    return np.array([number[value] for value in plain], np.int64)


def median_and_spread(values: Labels, name: str) -> tuple[float, float]:
    """Return the median and 1.4826 times the median absolute deviation (the standard deviation if that is 0).

    Raises
    ------
    ConfigurationError
        If all labels are equal, or are not finite numbers.
    """
    check_finite(values, name)
    numbers = np.asarray(values, np.float64)
    middle = float(np.median(numbers))
    spread = 1.4826 * float(np.median(np.abs(numbers - middle))) or float(numbers.std())
    if spread == 0:
        raise ConfigurationError(
            f"all {len(numbers)} labels in column {name!r} are {middle:g}; choose a column with different values"
        )
    return middle, spread


def _is_text(values: Labels) -> bool:
    return not isinstance(values, np.ndarray) or values.dtype.kind in "US"


def _numbers(values: Labels, name: str, hint: str) -> NDArray[Any]:
    """Return ``(N,)`` finite numbers."""
    if _is_text(values):
        raise ConfigurationError(
            f"the label column {name!r} contains strings ({_examples(sorted(set(values)))}); {hint}"
        )
    numbers = np.asarray(values)
    if numbers.ndim != 1:
        raise ConfigurationError(
            f"the label column {name!r} has the shape {numbers.shape}; it must have one value per target"
        )
    if numbers.dtype.kind == "b":
        numbers = numbers.astype(np.int64)
    missing = int((~np.isfinite(numbers)).sum())
    if missing:
        raise ConfigurationError(
            f"{missing} of {len(numbers)} labels in column {name!r} are NaN or infinite; remove these rows from the "
            f'catalog or exclude them with data.splits.select="abs({name}) < 1e30"'
        )
    return numbers


def _has_fractions(numbers: NDArray[Any]) -> bool:
    return bool((numbers != np.floor(numbers)).any())


def _examples(values: Sequence[Any]) -> str:
    shown = ", ".join(f"{value:.6g}" if isinstance(value, float) else repr(value) for value in values[:5])
    return shown + (", ..." if len(values) > 5 else "")
