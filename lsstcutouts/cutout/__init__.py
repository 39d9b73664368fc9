"""From cached tiles to one batch of arrays: crop, stitch across patches, fill, validity."""

from .files import OpenFiles
from .reader import PLANES, Batch, CutoutReader, checked_planes, checked_targets, default_threads, stream

__all__ = [
    "PLANES",
    "Batch",
    "CutoutReader",
    "OpenFiles",
    "checked_planes",
    "checked_targets",
    "default_threads",
    "stream",
]
