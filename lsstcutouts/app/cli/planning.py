"""The verb ``plan``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ...catalog.targets import Catalog
from ...errors import ConfigurationError
from ...plan.cutout_plan import CutoutPlan
from ...plan.planner import build_plan
from ...plan.read_options import ReadOptions
from ...plan.tables import PlanSummary
from ...splits.assignment import SplitAssignment, assign_splits, find_leaks
from ...splits.split_options import SplitOptions
from .plain import plain_settings

__all__ = ["PlanResult", "run"]


@dataclass(frozen=True)
class PlanResult:
    """Summary of a plan, and the number of targets of each split if splits were asked for."""

    summary: PlanSummary
    splits: Mapping[str, Mapping[str, Any]] | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**self.summary.as_dict(), "splits": self.splits}

    def table(self) -> Table:
        """Return the splits for people."""
        table = Table(title="Splits", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("split", "targets", "share", "patches", "left out, sharing pixels"):
            table.add_column(heading, justify="left" if heading == "split" else "right")
        for name, row in (self.splits or {}).items():
            table.add_row(name, str(row["targets"]), f"{row['share']:.1%}", str(row["patches"]), str(row["dropped"]))
        return table


def run(cfg: DictConfig) -> PlanResult:
    """Build, and perhaps save, the plan that a configuration (``configs/plan.yaml``) describes.

    Raises
    ------
    ConfigurationError
        If ``read`` or ``splits`` is not a dictionary.
    LeakError
        If a column or ids assign the splits, these share pixels, and ``splits.leaks`` is not set.
    """
    settings = plain_settings(cfg)
    for name, example in (("read", "tract"), ("splits", "shares")):
        if not isinstance(settings[name], Mapping):
            raise ConfigurationError(
                f"{name}={settings[name]} must be a dictionary; did you mean {name}.{example}={settings[name]}?"
            )
    options = _split_options(settings["splits"])
    needed = [*(settings["columns"] or ()), *([] if options is None else options.columns)]
    columns = tuple(dict.fromkeys(needed))
    catalog = Catalog.from_any(
        settings["catalog"],
        columns=columns,
        **{name: settings[name] for name in ("ra", "dec", "object_id", "unit", "allow_overflow")},
    )
    plan = build_plan(
        str(settings["repo"]),
        catalog,
        columns=columns,
        read=ReadOptions(**settings["read"]),
        **{name: settings[name] for name in ("collections", "bands", "size", "dataset_type")},
    )
    if settings["output"] is not None:
        plan.save(str(settings["output"]))
    summary = plan.summary(ranks=settings["ranks"])
    console = Console(soft_wrap=True, highlight=False, quiet=bool(settings["json"]))
    console.print(str(summary), markup=False)
    if options is None:
        return PlanResult(summary, None)
    assignment = assign_splits(plan, options, seed=settings["seed"])
    result = PlanResult(summary, _counted(plan, assignment))
    console.print(result.table())
    leaks = assignment.leaks or find_leaks(assignment.splits)
    console.print("\n".join(str(leak) for leak in leaks) or "No pixel is in two splits.", markup=False)
    return result


def _split_options(given: Mapping[str, Any]) -> SplitOptions | None:
    """Return how targets are assigned to splits; None if ``shares`` and ``select`` are both null."""
    if given["shares"] is None and given["select"] is None:
        return None
    options = SplitOptions(**given)
    return replace(options, leaks="raise") if given["leaks"] is None and not options.fractions else options


def _counted(plan: CutoutPlan, assignment: SplitAssignment) -> dict[str, dict[str, Any]]:
    whole = max(1, sum(len(rows) for name, (_, rows) in assignment.splits.items() if name != "predict"))
    return {
        name: {
            "targets": len(rows),
            "share": len(rows) / whole,
            "patches": plan.patches_under(rows),
            "dropped": len(assignment.dropped.get(name, ())),
        }
        for name, (_, rows) in assignment.splits.items()
        if name != "predict"
    }
