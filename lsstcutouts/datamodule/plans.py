"""Plans that a data module is given, and what tells one catalog from another."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..catalog import Catalog
from ..errors import PlanError
from ..geom import YX
from ..plan import CutoutPlan
from ..planner.arguments import AngularSize, has_size

__all__ = ["catalog_key", "fitting"]


def fitting(
    plan: CutoutPlan, *, bands: Sequence[str], size: YX[int] | AngularSize, dataset_type: str, columns: Sequence[str]
) -> CutoutPlan:
    """Return a plan that was given, if it is what the other arguments say.

    Raises
    ------
    PlanError
        If it is for something else.
    """
    asked = {"bands": bands, "size": size, "dataset_type": dataset_type}
    for name, value in asked.items():
        fits = has_size(plan, size) if name == "size" else getattr(plan, name) == value
        if not fits:
            raise PlanError(f"the plan has {name}={getattr(plan, name)!r} and the data module {value!r}; make it again")
    lacking = [c for c in columns if c not in plan.columns]
    if lacking:
        raise PlanError(f"the plan lacks the columns {', '.join(lacking)}; make it again with columns={columns!r}")
    return plan


def catalog_key(catalog: Any, columns: Sequence[str]) -> str:
    """Return what tells a catalog from another one, and from an earlier state of its file."""
    if isinstance(catalog, str | os.PathLike):
        path = Path(catalog)
        state = path.stat() if path.exists() else None
        return f"{path.absolute()} {state and (state.st_mtime_ns, state.st_size)}"
    return Catalog.from_any(catalog, columns=columns).fingerprint()
