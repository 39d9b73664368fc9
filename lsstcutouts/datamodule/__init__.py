"""The Lightning data module: catalog, plan, splits, loaders and device transforms, wired together."""

from ..splits import SPLITS
from .module import CutoutDataModule

__all__ = ["SPLITS", "CutoutDataModule"]
