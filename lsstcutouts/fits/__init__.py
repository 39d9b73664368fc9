"""Reader of coadd FITS files that decodes single compressed tiles.

It reads both layouts that Rubin publishes: ``lsst.images`` files (DP2), which have an index of their HDUs, and afw files
(DP0.2, DP1), whose headers are read one after the other. ``open_coadd`` returns a `Coadd`. A `PlaneLayout` describes how
a plane is stored; it can be pickled.
"""

from .coadd import Coadd, open_coadd
from .intact_tiles import read_intact_tiles
from .layout import PLANES, PlaneLayout
from .psf import PsfGrid

__all__ = [
    "PLANES",
    "Coadd",
    "PlaneLayout",
    "PsfGrid",
    "open_coadd",
    "read_intact_tiles",
]
