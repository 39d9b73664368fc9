"""Stream synchronised multi-band image cutouts from Rubin/LSST Butler repositories into PyTorch training.

Every public name loads on first use, so that ``import lsstcutouts`` brings neither torch nor the Butler.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache import TileCache
    from .catalog import Catalog
    from .cutout import Outcome, Quality, QualityPolicy
    from .datamodule import CutoutDataModule
    from .dataset import CutoutDataset, CutoutLoader
    from .errors import LsstCutoutsError
    from .export import batch_wcs, write_fits
    from .fetcher import LsstDataFetcher
    from .geom import YX, Box
    from .plan import CutoutPlan
    from .planner import build_plan
    from .report import Report

__version__ = "0.1.0"

_HOME = {
    "Box": "geom",
    "Catalog": "catalog",
    "CutoutDataModule": "datamodule",
    "CutoutDataset": "dataset",
    "CutoutLoader": "dataset",
    "CutoutPlan": "plan",
    "LsstCutoutsError": "errors",
    "LsstDataFetcher": "fetcher",
    "Outcome": "cutout",
    "Quality": "cutout",
    "QualityPolicy": "cutout",
    "Report": "report",
    "TileCache": "cache",
    "YX": "geom",
    "batch_wcs": "export",
    "build_plan": "planner",
    "write_fits": "export",
}
_ROOMS = ("errors", "fits", "simulate")

__all__ = [
    "YX",
    "Box",
    "Catalog",
    "CutoutDataModule",
    "CutoutDataset",
    "CutoutLoader",
    "CutoutPlan",
    "LsstCutoutsError",
    "LsstDataFetcher",
    "Outcome",
    "Quality",
    "QualityPolicy",
    "Report",
    "TileCache",
    "batch_wcs",
    "build_plan",
    "write_fits",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
