"""Plans of the parts of a large catalog, and how they become one without two copies of everything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxes import TargetBoxes
from .tables import Rejected

__all__ = ["BoxesUnder", "PlanPart", "taken"]


@dataclass(eq=False)
class PlanPart:
    """The plan of some rows of a catalog, ``n`` targets.

    Attributes
    ----------
    row, other_tract, yx0, offset, rejected
        As in a `CutoutPlan`.
    primary, others
        As there, but rows of ``keys``.
    others_count
        Number of ``others`` of each target.
    keys
        The patches, as `patch_key` names them.
    tracts
        The tracts of the targets.
    """

    row: NDArray[np.int64]
    primary: NDArray[np.int32]
    other_tract: NDArray[np.bool_]
    yx0: NDArray[np.int32]
    offset: NDArray[np.float32]
    others_count: NDArray[np.int32]
    others: NDArray[np.int32]
    keys: NDArray[np.int64]
    tracts: list[int]
    rejected: Rejected


@dataclass(frozen=True, eq=False)
class BoxesUnder:
    """Boxes of catalog rows ``row``, and what lies under them: as in a `CutoutPlan`, of ``n`` rows."""

    row: NDArray[np.int64]
    boxes: TargetBoxes
    others_start: NDArray[np.int64]
    others: NDArray[np.int64]
    primary: NDArray[np.int64]
    covered: NDArray[np.bool_]
    """``(n,)`` whether some file reaches under the box."""
    keys: NDArray[np.int64]
    """Of the patches to which ``primary`` and ``others`` refer."""


def taken(parts: Sequence[PlanPart], name: str) -> Any:
    """Return one array of all parts together, which they lose: two copies of all of them would be too much."""
    joined = np.concatenate([getattr(part, name) for part in parts])
    for part in parts:
        setattr(part, name, None)
    return joined
