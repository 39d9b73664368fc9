"""Which targets of a plan belong to which split: by area of sky, by a column, by lists of ids."""

import hashlib
import logging
import os
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...catalog.id_lists import read_ids
from ...catalog.ids import Ids, rows_of_ids, take_rows
from ...errors import ConfigurationError
from ..cutout_plan import CutoutPlan
from .split_options import SplitOptions

__all__ = ["area_names", "rows_of_splits", "split_groups"]

_log = logging.getLogger(__name__)

type Rows = NDArray[np.int64]

_FEW_PATCHES = 4
"""With fewer patches than this, a split by whole patches cannot come near the asked fractions."""

_SMALL_SHARE = 0.02
"""A patch with less than this share of the targets does not count as one of them."""

_SHOWN = 3


def rows_of_splits(plan: CutoutPlan, options: SplitOptions, seed: int) -> dict[str, Rows]:
    """Return the ascending targets of each split; they do not depend on the order of the catalog's rows."""
    if options.column is not None:
        return _by_column(plan, options.column)
    if options.ids:
        return _by_ids(plan, options.ids)
    return split_groups(area_names(plan, options), options.fractions, seed=seed)


def area_names(plan: CutoutPlan, options: SplitOptions) -> NDArray[np.str_]:
    """Return ``(N,)`` the name of the area of sky that each target belongs to."""
    by = options.by
    if by == "tract":
        return plan.tract.astype(str)
    if by == "healpix":
        return _healpix(plan, options.healpix_order).astype(str)
    if by == "auto":
        # A patch without coadds of its own lends a few targets at its border; it is not assigned to a split.
        share = np.bincount(plan.primary) / max(1, len(plan))
        by = "patch" if int((share > _SMALL_SHARE).sum()) >= _FEW_PATCHES else "block"
        if by == "block":
            _log.warning(
                "the plan has fewer than %d patches, so the splits are blocks of sky within the patches", _FEW_PATCHES
            )
    return plan.sky_groups(blocks=by == "block")


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
        raise ConfigurationError(
            f"the fractions of the splits must be between 0 and 1 and add up to 1, got {dict(fractions)}"
        )
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


def _healpix(plan: CutoutPlan, order: int) -> NDArray[np.int64]:
    """Return ``(N,)`` HEALPix cells, nested scheme (Gorski et al. 2005, ApJ 622, 759)."""
    from lsst.sphgeom import HealpixPixelization, LonLat, UnitVector3d

    cell, position = HealpixPixelization(order).index, LonLat.fromDegrees
    pairs = zip(plan.ra.tolist(), plan.dec.tolist(), strict=True)
    return np.fromiter((cell(UnitVector3d(position(ra, dec))) for ra, dec in pairs), np.int64, len(plan))


def _by_column(plan: CutoutPlan, column: str) -> dict[str, Rows]:
    names = np.asarray(plan.columns[column]).astype(str)
    rows = {name: np.flatnonzero(names == name) for name in ("train", "val", "test")}
    if not any(len(r) for r in rows.values()):
        found = ", ".join(repr(v) for v in np.unique(names)[:5].tolist())
        raise ConfigurationError(
            f"column {column!r} contains {found}, but no train, val or test; give a column with the names of the splits"
        )
    others = np.unique(names[~np.isin(names, list(rows))])
    found = ", ".join(repr(v) for v in others[:5].tolist())
    _warn_unassigned(plan, rows, f"column {column!r} contains {found} besides train, val and test")
    return rows


def _by_ids(plan: CutoutPlan, ids: Mapping[str, Any]) -> dict[str, Rows]:
    lists = {name: _ids(name, value) for name, value in ids.items()}
    rows = {}
    for name, wanted in lists.items():
        strange = np.flatnonzero(
            (rows_of_ids(plan.object_id, wanted) < 0) & (rows_of_ids(plan.rejected.object_id, wanted) < 0)
        )
        if len(strange):
            kind = "strings" if isinstance(plan.object_id, list) else "numbers"
            raise ConfigurationError(
                f"splits[{name!r}] lists {_first_ids(take_rows(wanted, strange))}, which the catalog does not contain; its ids are {kind}"
            )
        rows[name] = np.flatnonzero(rows_of_ids(wanted, plan.object_id) >= 0)  # all rows of an id
    for name, other in combinations(lists, 2):
        both = sorted(set(np.asarray(lists[name]).tolist()) & set(np.asarray(lists[other]).tolist()))
        if both:
            raise ConfigurationError(f"{_first_ids(both)} is in both splits {name!r} and {other!r}; list each id once")
    _warn_unassigned(plan, rows, "their ids are in no list")
    return rows


def _ids(name: str, value: Any) -> Ids:
    if isinstance(value, str | os.PathLike):
        return read_ids(os.fspath(value))
    array = np.asarray(value, object)
    items: list[Any] = array.tolist() if array.ndim == 1 else [None]
    if all(isinstance(item, str) for item in items):
        return items
    if not all(isinstance(item, int | np.integer) and -(2**63) <= item < 2**64 for item in items):
        raise ConfigurationError(
            f"splits[{name!r}] must be a list of ids (integers or strings) or a file with ids, got {value!r}"
        )
    return np.array(items, np.uint64) if max(items) >= 2**63 else np.array(items, np.int64)


def _first_ids(ids: Any) -> str:
    shown = ", ".join(map(str, np.asarray(ids)[:_SHOWN].tolist()))
    return f"object id {shown}" + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")


def _warn_unassigned(plan: CutoutPlan, rows: Mapping[str, Rows], why: str) -> None:
    rest = len(plan) - sum(len(r) for r in rows.values())
    if rest:
        _log.warning("%d of %d targets belong to no split: %s", rest, len(plan), why)
