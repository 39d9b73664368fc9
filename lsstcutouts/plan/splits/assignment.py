"""Assign the targets of plans to splits that share no pixels."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ...catalog.select import matching_rows
from ...errors import ConfigurationError, LeakError
from ..cutout_plan import CutoutPlan
from .groups import rows_of_splits
from .leaks import Boxes, Leak, leak_between, shares_pixels
from .split_options import OWN_COLUMNS, SplitOptions

__all__ = ["SplitAssignment", "assign_plans", "assign_splits", "find_leaks"]

_log = logging.getLogger(__name__)

type Rows = NDArray[np.int64]
type Parts = dict[str, tuple[CutoutPlan, Rows]]

_PROTECTED = ("test", "val", "train")
"""The split that is smaller, and that results are quoted of, keeps its targets."""


@dataclass(frozen=True, eq=False)
class SplitAssignment:
    """Which targets belong to which split.

    Attributes
    ----------
    splits
        Name to the plan and the ascending targets of it; ``predict`` among them.
    dropped
        Name to targets that were left out, since their boxes share pixels with a more protected split's: training gives
        way to validation, both to test.
    leaks
        What the splits share all the same; empty where leaks were dropped.
    """

    splits: Parts
    dropped: Mapping[str, Rows] = field(default_factory=dict)
    leaks: tuple[Leak, ...] = ()


def assign_splits(plan: CutoutPlan, options: SplitOptions, *, seed: int = 0) -> SplitAssignment:
    """Assign the targets of one plan to splits.

    Parameters
    ----------
    plan, options
        The targets, and which of them belong to which split.
    seed
        Chooses which area goes to which split.

    Raises
    ------
    ConfigurationError
        If the column, the ids or an expression do not fit the plan.
    LeakError
        If splits share pixels and ``leaks="raise"``.
    """
    parts = {name: (plan, rows) for name, rows in rows_of_splits(plan, options, seed).items()}
    return _handle_leaks(_apply_selection({**parts, "predict": (plan, np.arange(len(plan)))}, options), options)


def assign_plans(plans: Mapping[str, CutoutPlan], options: SplitOptions) -> SplitAssignment:
    """Return the splits of plans that hold one split each, with leaks handled as in `assign_splits`."""
    parts = {name: (plan, np.arange(len(plan))) for name, plan in plans.items()}
    return _handle_leaks(_apply_selection(parts, options), options)


def find_leaks(splits: Parts) -> tuple[Leak, ...]:
    """Return what the splits other than ``predict`` share."""
    boxes = {name: Boxes.of(*splits[name]) for name in reversed(_PROTECTED) if name in splits}
    found = (leak_between((a, b), boxes[a], boxes[b]) for a, b in combinations(boxes, 2))
    return tuple(leak for leak in found if leak is not None)


def _apply_selection(parts: Parts, options: SplitOptions) -> Parts:
    chosen = {}
    for name, (plan, rows) in parts.items():
        kept = rows
        if name in options.expressions:
            expression = options.expressions[name]
            columns = {**{own: getattr(plan, own) for own in OWN_COLUMNS}, **plan.columns}
            kept = rows[matching_rows(expression, columns, len(plan))[rows]]
            if len(rows) and not len(kept):
                raise ConfigurationError(
                    f"select={expression!r} matches none of the {len(rows)} targets of {name!r}; check the expression"
                )
            _log.info("select=%r matches %d of %d targets of %r", expression, len(kept), len(rows), name)
        chosen[name] = plan, kept
    return chosen


def _handle_leaks(parts: Parts, options: SplitOptions) -> SplitAssignment:
    if options.leak_policy != "drop":
        return _report_leaks(parts, options)
    kept, dropped = dict(parts), {}
    protected: list[Boxes] = []
    for name in _PROTECTED:
        if name not in parts:
            continue
        plan, rows = parts[name]
        boxes = Boxes.of(plan, rows)
        shares = shares_pixels(boxes, *protected)
        kept[name], dropped[name] = (plan, rows[~shares]), rows[shares]
        protected.append(boxes.take(np.flatnonzero(~shares)))
        if shares.any():
            _log.warning(
                "%d of %d targets of the %r split are left out: their boxes share pixels with those of %s",
                *(
                    int(shares.sum()),
                    len(rows),
                    name,
                    " or ".join(n for n in _PROTECTED[:2] if n != name and n in parts and len(parts[n][1])),
                ),
            )
    return SplitAssignment(kept, dropped)


def _report_leaks(parts: Parts, options: SplitOptions) -> SplitAssignment:
    leaks = find_leaks(parts)
    if leaks and options.leak_policy == "raise":
        raise LeakError(
            "the splits share pixels:\n" + "\n".join(f"  {leak}" for leak in leaks) + "\nAssign them by area of sky "
            "(fractions and by=), or use leaks='drop' to leave these targets out of training"
        )
    for leak in leaks:
        _log.warning("the splits share pixels, so validation scores will be too optimistic; use leaks='drop': %s", leak)
    return SplitAssignment(parts, leaks=leaks)
