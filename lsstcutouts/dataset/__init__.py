"""Whole batches as torch tensors, in an order that can be repeated, resumed and shared.

Threads inside the process decode and assemble several batches ahead; worker processes are supported and give
the same batches in the same order.
"""

from ..device import TensorBatch
from .cutouts import CutoutDataset
from .loader import CutoutLoader
from .workers import WorkerCaches

__all__ = ["CutoutDataset", "CutoutLoader", "TensorBatch", "WorkerCaches"]
