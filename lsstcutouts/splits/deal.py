"""Assign the targets of plans to splits that share no pixels."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..catalog.select import matching_rows
from ..errors import ConfigurationError, LeakError
from ..plan.cutout_plan import CutoutPlan
from .assign import assigned
from .leaks import Boxes, Leak, leak_between, sharing
from .split_options import OWN_COLUMNS, SplitOptions

__all__ = ["Dealt", "deal", "deal_plans", "leaks_of"]

_log = logging.getLogger(__name__)

type Rows = NDArray[np.int64]
type Parts = dict[str, tuple[CutoutPlan, Rows]]

_PROTECTED = ("test", "val", "train")
"""The split that is smaller, and that results are quoted of, keeps its targets."""


@dataclass(frozen=True, eq=False)
class Dealt:
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


def deal(plan: CutoutPlan, options: SplitOptions, *, seed: int = 0) -> Dealt:
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
    parts = {name: (plan, rows) for name, rows in assigned(plan, options, seed).items()}
    return _guarded(_selected({**parts, "predict": (plan, np.arange(len(plan)))}, options), options)


def deal_plans(plans: Mapping[str, CutoutPlan], options: SplitOptions) -> Dealt:
    """Return the splits of plans that hold one split each, with leaks handled as in `deal`."""
    parts = {name: (plan, np.arange(len(plan))) for name, plan in plans.items()}
    return _guarded(_selected(parts, options), options)


def leaks_of(splits: Parts) -> tuple[Leak, ...]:
    """Return what the splits other than ``predict`` share."""
    boxes = {name: Boxes.of(*splits[name]) for name in reversed(_PROTECTED) if name in splits}
    found = (leak_between((a, b), boxes[a], boxes[b]) for a, b in combinations(boxes, 2))
    return tuple(leak for leak in found if leak is not None)


def _selected(parts: Parts, options: SplitOptions) -> Parts:
    chosen = {}
    for name, (plan, rows) in parts.items():
        kept = rows
        if name in options.expressions:
            expression = options.expressions[name]
            columns = {**{own: getattr(plan, own) for own in OWN_COLUMNS}, **plan.columns}
            kept = rows[matching_rows(expression, columns, len(plan))[rows]]
            if len(rows) and not len(kept):
                raise ConfigurationError(f"select={expression!r} leaves none of the {len(rows)} targets of {name!r}")
            _log.info("select=%r leaves %d of %d targets of %r", expression, len(kept), len(rows), name)
        chosen[name] = plan, kept
    return chosen


def _guarded(parts: Parts, options: SplitOptions) -> Dealt:
    if options.leak_policy != "drop":
        return _checked(parts, options)
    kept, dropped = dict(parts), {}
    protected: list[Boxes] = []
    for name in _PROTECTED:
        if name not in parts:
            continue
        plan, rows = parts[name]
        boxes = Boxes.of(plan, rows)
        shares = sharing(boxes, *protected)
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
    return Dealt(kept, dropped)


def _checked(parts: Parts, options: SplitOptions) -> Dealt:
    leaks = leaks_of(parts)
    if leaks and options.leak_policy == "raise":
        raise LeakError(
            "the splits share pixels:\n" + "\n".join(f"  {leak}" for leak in leaks) + "\nDeal them by area of sky "
            "(fractions with split_by=), or let leaks='drop' leave the targets out of training"
        )
    for leak in leaks:
        _log.warning("the splits share pixels, so validation scores will be too optimistic; use leaks='drop': %s", leak)
    return Dealt(parts, leaks=leaks)
