"""The plans of a data module: made once a node, found by every process, or given."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...catalog.files import files_of
from ...catalog.targets import Catalog
from ...errors import PlanError
from ...plan.arguments import AngularSize, has_size
from ...plan.cutout_plan import CutoutPlan
from ...plan.planner import build_plan
from ...plan.read_options import ReadOptions
from ...sky.geometry import YX

__all__ = ["PlanSettings"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanSettings:
    """What decides a plan, besides its catalog; as in `lsstcutouts.build_plan`."""

    repo: str
    collections: str | Sequence[str]
    bands: tuple[str, ...]
    size: YX[int] | AngularSize
    dataset_type: str
    read: ReadOptions
    columns: tuple[str, ...]

    def made(self, catalog: Any) -> CutoutPlan:
        """Return the plan of a catalog, and say what it does not cover."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "repo"}
        plan = build_plan(self.repo, catalog, **given)
        if len(plan.rejected):
            whole = len(plan.rejected) + len(plan)
            _log.warning("%d of %d targets are not covered:\n%s", len(plan.rejected), whole, plan.summary())
        return plan

    def path(self, catalog: Any, name: str, folder: Path) -> Path:
        """Return where the plan of a catalog waits: known to every process of a run from its settings alone."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        known["read"] = self.read.tract, self.read.skymap
        settings = [*known.values(), _catalog_key(catalog, self.columns)]
        key = hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:12]
        return folder / f"plan-{name or 'all'}-{key}.parquet"

    def fitting(self, plan: CutoutPlan) -> CutoutPlan:
        """Return a plan that was given, if it is what the settings say.

        Raises
        ------
        PlanError
            If it is for something else.
        """
        for name in ("bands", "size", "dataset_type"):
            value = getattr(self, name)
            fits = has_size(plan, self.size) if name == "size" else getattr(plan, name) == value
            if not fits:
                raise PlanError(
                    f"the plan has {name}={getattr(plan, name)!r} and the data module {value!r}; make it again"
                )
        lacking = [c for c in self.columns if c not in plan.columns]
        if lacking:
            raise PlanError(
                f"the plan lacks the columns {', '.join(lacking)}; make it again with columns={self.columns!r}"
            )
        return plan


def _catalog_key(catalog: Any, columns: Sequence[str]) -> str:
    """Return what tells a catalog from another one, and from an earlier state of its file."""
    if isinstance(catalog, str | os.PathLike):
        states = [(path.absolute(), path.stat() if path.exists() else None) for path in files_of(catalog)]
        return "\n".join(f"{path} {state and (state.st_mtime_ns, state.st_size)}" for path, state in states)
    return Catalog.from_any(catalog, columns=columns).fingerprint()
