"""The verb ``plan``."""

from omegaconf import DictConfig
from rich.console import Console

from ..catalog import Catalog
from ..plan import PlanSummary
from ..planner import build_plan
from .settings import plain_settings

__all__ = ["run"]


def run(cfg: DictConfig) -> PlanSummary:
    """Build, and perhaps save, the plan that a configuration (``configs/plan.yaml``) describes."""
    settings = plain_settings(cfg)
    columns = settings["columns"] or ()
    catalog = Catalog.from_any(
        str(settings["catalog"]),
        columns=columns,
        **{name: settings[name] for name in ("ra", "dec", "object_id", "unit")},
    )
    plan = build_plan(
        catalog,
        str(settings["repo"]),
        columns=columns,
        **{name: settings[name] for name in ("collections", "bands", "size", "dataset_type", "skymap", "tract")},
    )
    if settings["output"] is not None:
        plan.save(str(settings["output"]))
    summary = plan.summary()
    if not settings["json"]:
        Console(soft_wrap=True, highlight=False).print(str(summary), markup=False)
    return summary
