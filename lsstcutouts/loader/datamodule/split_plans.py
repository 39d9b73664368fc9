"""The plans of a data module, and the splits of their targets."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...catalog.files import has_path, state_of
from ...catalog.targets import Catalog
from ...errors import ConfigurationError, PlanError
from ...plan.arguments import AngularSize, has_size
from ...plan.butler_errors import trust_repository
from ...plan.cutout_plan import CutoutPlan
from ...plan.grid import Grid
from ...plan.planner import build_plan
from ...plan.read_options import ReadOptions
from ...plan.splits.assignment import SplitAssignment, assign_plans, assign_splits
from ...plan.splits.split_options import SPLITS, SplitOptions
from ...read.exports.export_files import is_export
from ...read.exports.plans import export_plan, state_of_export
from ...sky.geometry import YX

__all__ = ["PlanSettings", "SplitPlans"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanSettings:
    """What a plan depends on, besides its catalog; as in `lsstcutouts.build_plan`."""

    repo: str
    collections: str | Sequence[str]
    bands: tuple[str, ...]
    size: YX[int] | AngularSize
    dataset_type: str
    read: ReadOptions
    columns: tuple[str, ...]

    @property
    def exported(self) -> bool:
        """Whether the pixels are read from an export."""
        return is_export(self.repo)

    def build(self, catalog: Any) -> CutoutPlan:
        """Return the plan of a catalog, or of an export, and log which targets it does not cover."""
        if self.exported and self.read.grid is not None:
            raise ConfigurationError(
                f"read.grid does not work with repo={self.repo!r}: the cutouts of an export are on the pixel grid of their tract; give "
                "the repository, or leave out read.grid"
            )
        if self.exported:
            plan = export_plan(self.repo, bands=self.bands, size=self.size, columns=self.columns)
        else:
            given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "repo"}
            plan = build_plan(self.repo, catalog, **given)
        if len(plan.rejected):
            whole = len(plan.rejected) + len(plan)
            _log.warning("%d of %d targets are not covered:\n%s", len(plan.rejected), whole, plan.summary())
        return plan

    def path(self, catalog: Any, name: str, folder: Path) -> Path:
        """Return the file of the plan of a catalog, which every process of a run finds by these settings."""
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        known["read"] = self.read.tract, self.read.skymap, self.read.grid
        own = state_of_export(self.repo) if self.exported else _catalog_key(catalog, self.columns)
        settings = [*known.values(), own]
        key = hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:12]
        return folder / f"plan-{name or 'all'}-{key}.parquet"

    def check(self, plan: CutoutPlan) -> CutoutPlan:
        """Return a plan that was given, if it fits the settings.

        Raises
        ------
        PlanError
            If it was made for other settings.
        """
        for name in ("bands", "size", "dataset_type"):
            value = getattr(self, name)
            fits = has_size(plan, self.size) if name == "size" else getattr(plan, name) == value
            if not fits:
                raise PlanError(
                    f"the plan has {name}={getattr(plan, name)!r}, but the data module has {value!r}; make the plan again"
                )
        made = None if plan.grid is None else plan.grid.settings
        if made != self.read.grid:
            raise PlanError(
                f"the plan has {_shown(made)}, but the data module has {_shown(self.read.grid)} (read.grid); make the plan again"
            )
        if (plan.pixels is not None) != self.exported:
            where = "the repository" if plan.pixels is None else f"the export {plan.pixels.folder}"
            raise PlanError(
                f"the plan has pixels of {where}, but repo={self.repo!r}; give both of the same, or make the plan again"
            )
        lacking = [c for c in self.columns if c not in plan.columns]
        if lacking:
            raise PlanError(
                f"the plan does not have the columns {', '.join(lacking)}; make the plan again with columns={self.columns!r}"
            )
        return plan


def _shown(grid: Grid | None) -> str:
    return "the pixel grid of the tract" if grid is None else str(grid)


class SplitPlans:
    """Plans once per node and assigns the targets to splits.

    Parameters
    ----------
    settings
        What the plans depend on.
    catalog
        A catalog, or split names mapped to catalogs.
    given
        A plan, or a file of one, to be used instead of making it.
    options, seed
        Which targets belong to which split.
    """

    def __init__(
        self,
        settings: PlanSettings,
        catalog: Any,
        given: str | os.PathLike[str] | CutoutPlan | None,
        options: SplitOptions,
        seed: int,
    ) -> None:
        self.settings, self.options = settings, options
        self.assignment: SplitAssignment | None = None
        """Which targets belong to which split, and which were left out; known after `load`."""
        self.plan = given
        """The plan in use after `load`, unless each split has its own catalog."""
        self._catalog, self._seed = catalog, seed
        self._tables: dict[str, Catalog] = {}
        self._prepared: dict[str, CutoutPlan] = {}  # made by this process, until `load` takes them

    @property
    def splits(self) -> dict[str, tuple[CutoutPlan, NDArray[np.int64]]]:
        """Plan and ``(n,)`` target indices of each split; empty before `load`."""
        return {} if self.assignment is None else self.assignment.splits

    def has(self, split: str) -> bool:
        """Return whether a split has targets."""
        return split in self.splits and len(self.splits[split][1]) > 0

    def prepare(self, folder: Path) -> None:
        """Make the plans and write them to a folder, where `load` of every process finds them."""
        if not self.splits:
            for name, catalog in self._catalogs().items():
                self._prepared[name] = self.settings.build(catalog)
                self._prepared[name].save(self.settings.path(catalog, name, folder))

    def load(self, folder: Path | None) -> None:
        """Load the plans from a folder, or make them without one, and assign their targets to the splits."""
        if self.splits:
            return
        if not self.settings.exported:
            trust_repository(self.settings.repo)  # with a plan from a file the Butler is not opened
        plans = {
            name: self._prepared.get(name)
            or (
                self.settings.build(catalog)
                if folder is None
                else CutoutPlan.load(self.settings.path(catalog, name, folder))
            )
            for name, catalog in self._catalogs().items()
        }
        self._prepared.clear()
        self._tables.clear()
        if self.plan is not None:
            given = self.plan if isinstance(self.plan, CutoutPlan) else CutoutPlan.load(self.plan)
            plans[""] = self.settings.check(given)
        if "" in plans:
            self.plan = plans[""]
            self.assignment = assign_splits(plans[""], self.options, seed=self._seed)
        else:
            self.assignment = assign_plans(plans, self.options)

    def _catalogs(self) -> dict[str, Any]:
        """Return the catalogs to plan by split, or one for all splits under the empty name."""
        if self.plan is not None:
            return {}
        if self.settings.exported:
            return {"": None}
        one_each = isinstance(self._catalog, Mapping) and set(self._catalog) <= set(SPLITS)
        catalogs = dict(self._catalog) if one_each else {"": self._catalog}
        for name, catalog in catalogs.items():
            if not isinstance(catalog, str | os.PathLike | Mapping) and name not in self._tables:
                # Reading a catalog of lsdb computes it; its plan and the name of its file need it.
                self._tables[name] = Catalog.from_any(catalog, columns=self.settings.columns)
        return catalogs | self._tables


def _catalog_key(catalog: Any, columns: Sequence[str]) -> str:
    """Return text that differs for another catalog, and for an earlier version of its file."""
    if isinstance(catalog, str | os.PathLike):
        return state_of(catalog)
    if has_path(catalog):
        return f"{state_of(catalog['path'])}\n{sorted((name, str(value)) for name, value in catalog.items())}"
    return Catalog.from_any(catalog, columns=columns).fingerprint()
