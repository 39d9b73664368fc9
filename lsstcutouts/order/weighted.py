"""Samples the targets of an epoch with weights."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigurationError
from .blocks import Ints

__all__ = ["balanced", "checked_classes", "checked_weights", "repeats", "sample_rows"]

_REMEDY = "correct these values, or leave these targets out with select="


def checked_weights(weights: ArrayLike, name: str = "weights") -> NDArray[np.float64]:
    """Return the weight of each target, ``(N,)`` float64.

    Raises
    ------
    ConfigurationError
        If one is negative or not finite, or all are zero.
    """
    array = np.asarray(weights)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise ConfigurationError(
            f"{name} must have one number per target, got {array.dtype} values of shape {array.shape}"
        )
    array = array.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(bad):
        raise ConfigurationError(
            f"{name} must be finite and not negative; {len(bad)} of {len(array)} are not, the first is {array[bad[0]]} of "
            f"target {bad[0]}; {_REMEDY}"
        )
    if len(array) and not array.any():
        raise ConfigurationError(f"{name} are 0 for every target; give some targets a positive weight")
    return array


def checked_classes(classes: ArrayLike, name: str = "balance") -> NDArray[np.int64]:
    """Return the class number of each target, ``(N,)`` from 0, from classes that are numbers or strings.

    Raises
    ------
    ConfigurationError
        If a value is missing: NaN, None or an empty string. Otherwise missing values would be sampled as often as a class.
    """
    array = np.asarray(classes)
    if array.ndim != 1:
        raise ConfigurationError(f"{name} must have one class per target, got the shape {array.shape}")
    if array.dtype.kind == "f":
        missing = ~np.isfinite(array)
    elif array.dtype.kind in "OUS":
        missing = np.array(
            [one is None or not str(one).strip() or str(one) == "nan" for one in array.tolist()], np.bool_
        )
    else:
        missing = np.zeros(len(array), np.bool_)
    if missing.any():
        bad = np.flatnonzero(missing)
        raise ConfigurationError(
            f"{name} has no class for {len(bad)} of {len(array)} targets, the first is target {bad[0]}; {_REMEDY}"
        )
    return np.unique(array, return_inverse=True)[1].reshape(-1).astype(np.int64)


def balanced(stratum: Ints, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return ``(N,)`` weights whose sum is 1 in every stratum, in proportion to ``weights`` within a stratum.

    Parameters
    ----------
    stratum
        ``(N,)`` numbers of the strata from 0, such as class numbers.
    weights
        ``(N,)``; by default equal.
    """
    one = np.ones(len(stratum)) if weights is None else weights
    total = np.bincount(stratum, weights=one)
    return np.divide(one, total[stratum], out=np.zeros(len(one)), where=total[stratum] > 0)


def sample_rows(
    weights: NDArray[np.float64],
    size: int,
    *,
    seed: int,
    epoch: int,
    replacement: bool = False,
    stratum: Ints | None = None,
) -> NDArray[np.int64]:
    """Return ``(size,)`` sampled row numbers of an epoch, ascending.

    Without replacement each row occurs its expected number of times, ``size * weight / sum(weights)``, rounded down or
    up (systematic sampling in random order; Madow 1949, Ann. Math. Statist. 20, 333). With replacement the samples are
    independent.

    Parameters
    ----------
    weights
        ``(N,)``, as `checked_weights` returns them.
    stratum
        ``(N,)`` numbers of strata; without replacement each stratum, too, occurs its expected number of times, rounded
        down or up.
    """
    rng = np.random.default_rng([seed, epoch, 2])
    order = rng.permutation(len(weights))
    if stratum is not None:
        order = order[np.argsort(stratum[order], kind="stable")]
    edges = np.cumsum(weights[order])
    edges = edges / edges[-1] * size  # divide first: the last one is then exactly size
    if replacement:
        sampled = np.searchsorted(edges, rng.random(size) * size, side="right")
        counts = np.bincount(sampled, minlength=len(weights))
    else:
        ticks = np.minimum(np.floor(edges + rng.random()), size)
        counts = np.diff(ticks, prepend=0).astype(np.int64)
    rows = np.empty(len(weights), np.int64)
    rows[order] = counts
    return np.repeat(np.arange(len(weights)), rows)


def repeats(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each of the ascending ``(size,)`` rows occurred before: 0 for the first time."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows, side="left")
