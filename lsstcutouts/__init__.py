"""Stream synchronised multi-band image cutouts from Rubin/LSST Butler repositories into PyTorch training.

Every public name loads on first use, so that ``import lsstcutouts`` brings neither torch nor the Butler.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app.gallery.gallery import gallery
    from .app.gallery.show import show
    from .bulk.exporting import export
    from .bulk.predicting import predict
    from .catalog.footprint import Footprint
    from .catalog.targets import Catalog
    from .errors import LsstCutoutsError
    from .loader.datamodule.module import CutoutDataModule
    from .loader.dataset import CutoutDataset
    from .loader.loader import CutoutLoader
    from .loader.transfer_options import TransferOptions
    from .order.sampling import Sampling
    from .plan.cutout_plan import CutoutPlan
    from .plan.grid import Grid
    from .plan.planner import build_plan
    from .plan.quality import Outcome, Quality, QualityPolicy
    from .plan.read_options import ReadOptions
    from .plan.splits.split_options import SplitOptions
    from .read.export import batch_wcs, write_fits
    from .read.exports.plans import export_plan
    from .read.fetcher import LsstDataFetcher
    from .read.report import Report
    from .sky.geometry import YX, Box

__version__ = "0.1.0"

_HOME = {
    "Box": "sky.geometry",
    "Catalog": "catalog.targets",
    "CutoutDataModule": "loader.datamodule.module",
    "CutoutDataset": "loader.dataset",
    "CutoutLoader": "loader.loader",
    "CutoutPlan": "plan.cutout_plan",
    "Footprint": "catalog.footprint",
    "Grid": "plan.grid",
    "LsstCutoutsError": "errors",
    "LsstDataFetcher": "read.fetcher",
    "Outcome": "plan.quality",
    "Quality": "plan.quality",
    "QualityPolicy": "plan.quality",
    "Report": "read.report",
    "TransferOptions": "loader.transfer_options",
    "SplitOptions": "plan.splits.split_options",
    "Sampling": "order.sampling",
    "ReadOptions": "plan.read_options",
    "YX": "sky.geometry",
    "batch_wcs": "read.export",
    "build_plan": "plan.planner",
    "export": "bulk.exporting",
    "predict": "bulk.predicting",
    "export_plan": "read.exports.plans",
    "gallery": "app.gallery.gallery",
    "show": "app.gallery.show",
    "write_fits": "read.export",
}
_ROOMS = ("errors", "models", "testing", "transforms")

__all__ = [
    "YX",
    "Box",
    "Catalog",
    "CutoutDataModule",
    "CutoutDataset",
    "CutoutLoader",
    "CutoutPlan",
    "Footprint",
    "Grid",
    "LsstCutoutsError",
    "LsstDataFetcher",
    "Outcome",
    "Quality",
    "QualityPolicy",
    "ReadOptions",
    "Report",
    "Sampling",
    "SplitOptions",
    "TransferOptions",
    "batch_wcs",
    "build_plan",
    "export",
    "export_plan",
    "gallery",
    "predict",
    "show",
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
