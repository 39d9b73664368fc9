"""The Lightning data module: catalog, plan, splits, loaders and device transforms, wired together."""

from .module import CutoutDataModule
from .splits import SPLITS

__all__ = ["SPLITS", "CutoutDataModule"]
