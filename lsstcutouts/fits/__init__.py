"""Coadd files: where their pixels are, and the pixels, one compressed tile at a time.

Both layouts that Rubin publishes are read: ``lsst.images`` files (DP2), which carry an index of their HDUs, and
files written by afw (DP0.2, DP1), whose headers are walked. ``open_coadd`` gives a `Coadd`; what a plane looks
like inside its file is a `PlaneLayout`, plain data that can be kept and sent to other processes.
"""

from .coadd import Coadd, open_coadd
from .intact_tiles import read_intact_tiles
from .layout import PLANES, PlaneLayout
from .pixels import Unit
from .psf import PsfGrid

__all__ = [
    "PLANES",
    "Coadd",
    "PlaneLayout",
    "PsfGrid",
    "Unit",
    "open_coadd",
    "read_intact_tiles",
]
