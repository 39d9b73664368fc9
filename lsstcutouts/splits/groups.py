"""Assign whole groups of targets to splits."""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError

__all__ = ["split_groups"]


def split_groups(group: NDArray[np.str_], fractions: Mapping[str, float], *, seed: int) -> dict[str, NDArray[np.int64]]:
    """Assign whole groups of targets to named splits, close to the asked fractions of all targets.

    Parameters
    ----------
    group
        ``(N,)`` names of the groups, such as ``"5063/15"``; a group is never divided.
    fractions
        Split name to its share of the targets; the shares must add up to 1.
    seed
        Chooses which groups go where, independent of the order of the rows.

    Returns
    -------
    dict
        Split name to ascending row numbers; each row is in exactly one split.
    """
    if any(not 0 <= f <= 1 for f in fractions.values()) or abs(sum(fractions.values()) - 1.0) > 1e-6:
        raise ConfigurationError(f"the fractions of the splits must lie in 0..1 and add up to 1, got {dict(fractions)}")
    names, inverse, counts = np.unique(group, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    shuffled = sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}:{names[i]}".encode()).digest())
    wanted = {name: share * len(group) for name, share in fractions.items()}
    assignment = np.empty(len(names), np.int64)
    splits = list(fractions)
    for i in shuffled:
        # The split that lacks the most rows takes the next group, which keeps every share within one group's size.
        emptiest = max(splits, key=lambda name: wanted[name])
        assignment[i] = splits.index(emptiest)
        wanted[emptiest] -= counts[i]
    return {name: np.flatnonzero(assignment[inverse] == k) for k, name in enumerate(splits)}
