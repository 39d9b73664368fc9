"""Which targets belong to training, validation, test and prediction."""

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError
from ..order import split_groups
from ..plan import CutoutPlan

__all__ = ["SPLITS", "checked_fractions", "dealt"]

_log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test", "predict")

_FEW_PATCHES = 4
"""With fewer patches than this, a split by whole patches cannot come near the asked fractions."""


_SMALL_SHARE = 0.02
"""A patch with less than this share of the targets does not count as one of them."""


def checked_fractions(splits: Mapping[str, float] | None) -> dict[str, float]:
    """Return the share of each split, or raise `ConfigurationError` if they cannot be."""
    fractions = {"train": 0.8, "val": 0.2} if splits is None else {str(k): float(v) for k, v in splits.items()}
    unknown = set(fractions) - {"train", "val", "test"}
    if unknown:
        raise ConfigurationError(f"splits name {', '.join(sorted(unknown))}; there are train, val and test")
    if min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1.0) > 1e-6:
        raise ConfigurationError(f"the fractions of splits must lie in 0..1 and add up to 1, got {fractions}")
    return fractions


def dealt(
    plan: CutoutPlan, fractions: Mapping[str, float], seed: int
) -> dict[str, tuple[CutoutPlan, NDArray[np.int64]]]:
    """Return the plan and its targets of each split: whole patches, or blocks of sky where there are few patches."""
    # A patch without coadds of its own lends a few targets at its border; it is no patch to deal.
    share = np.bincount(plan.primary) / len(plan)
    by_patch = int((share > _SMALL_SHARE).sum()) >= _FEW_PATCHES
    if not by_patch:
        _log.warning("fewer than %d patches: the splits are blocks of sky within the patches", _FEW_PATCHES)
    groups = plan.sky_groups(blocks=not by_patch)
    rows = split_groups(groups, fractions, seed=seed)
    return {**{name: (plan, part) for name, part in rows.items()}, "predict": (plan, np.arange(len(plan)))}
