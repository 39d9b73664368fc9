"""From cached tiles to one batch of arrays: crop, stitch across patches, fill, validity, policies."""

from .account import Account, Failure
from .files import OpenFiles
from .options import PLANES, ReadOptions
from .quality import Outcome, Quality, QualityPolicy
from .reader import (
    CutoutReader,
    Delivery,
    Request,
    Threads,
    checked_targets,
    default_threads,
    stream,
    threads_for,
)
from .settle import lacking
from .work import Batch, Empty

__all__ = [
    "PLANES",
    "Account",
    "Batch",
    "CutoutReader",
    "Delivery",
    "Empty",
    "Failure",
    "OpenFiles",
    "Outcome",
    "Quality",
    "QualityPolicy",
    "ReadOptions",
    "Request",
    "Threads",
    "checked_targets",
    "default_threads",
    "lacking",
    "stream",
    "threads_for",
]
