"""All that turns boxes into bytes and pixels of one file, read from its headers once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import LsstCutoutsError
from ..errors.error_classes import fresh
from ..sky.geometry import Box
from .layout import PlaneLayout
from .psf import CellKernels
from .wcs import PixelProjection

__all__ = ["FileIndex"]

_REST = 4096
"""Bytes of an index beside its arrays."""


@dataclass(frozen=True, slots=True, eq=False)
class FileIndex:
    """Where and how the pixels of some planes are stored in a file; plain values and arrays, which can be pickled.

    Attributes
    ----------
    uri
        The file.
    stamp
        What tells its content from another one, see `ByteSource`.
    gzipped
        Whether it is gzipped as a whole.
    bbox
        Box of its pixels, tract pixels.
    projection
        From tract pixels to the sky.
    layouts
        Of the planes; ``mask2`` and so on where mask planes of these are read.
    errors
        Why a plane cannot be read, or the ``psf``.
    mask_bits
        HDU and bit of each mask plane that is read; None for one that the file lacks.
    scale
        NanoJansky for each unit of the image, or 1.
    kernels
        Where the PSF kernels are, if they are read.
    """

    uri: str
    stamp: tuple[int, ...]
    gzipped: bool
    bbox: Box
    projection: PixelProjection
    layouts: Mapping[str, PlaneLayout]
    errors: Mapping[str, LsstCutoutsError]
    mask_bits: Sequence[tuple[str, int] | None] = ()
    scale: float = 1.0
    kernels: CellKernels | None = None

    def layout(self, plane: str) -> PlaneLayout:
        """Return the layout of a plane, or raise why it cannot be read."""
        self.check(plane)
        return self.layouts[plane]

    def check(self, plane: str) -> None:
        """Raise why a plane, or the ``psf``, cannot be read."""
        if plane in self.errors:
            raise fresh(self.errors[plane])

    @property
    def transient(self) -> bool:
        """Whether another attempt may find what is missing here."""
        return any(error.transient for error in self.errors.values())

    @property
    def nbytes(self) -> int:
        """Memory that it takes, bytes."""
        kernels = 0 if self.kernels is None else self.kernels.offsets.nbytes + self.kernels.sizes.nbytes
        return _REST + sum(layout.nbytes for layout in self.layouts.values()) + kernels
