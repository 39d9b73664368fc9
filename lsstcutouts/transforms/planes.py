"""Which arrays of a batch lie on the sky."""

from torch import Tensor

from ..errors import ConfigurationError
from .batch import TensorBatch

__all__ = ["PLANES", "pixel_planes", "pixel_sides"]

PLANES = ("image", "variance", "ivar", "mask", "valid", "psf")
"""Arrays whose last two axes are ``(y, x)`` of the sky."""


def pixel_planes(batch: TensorBatch) -> dict[str, Tensor]:
    """Return the planes of the cutout itself, ``(N, B, Y, X)``; not the PSF."""
    return {name: v for name in PLANES if name != "psf" and isinstance(v := batch.get(name), Tensor)}


def pixel_sides(batch: TensorBatch, by: str) -> tuple[int, int]:
    """Return height and width of the cutouts; `~lsstcutouts.errors.ConfigurationError` for a batch without pixels."""
    for plane in pixel_planes(batch).values():
        return plane.shape[-2], plane.shape[-1]
    raise ConfigurationError(f"{by} needs pixels, and the batch has none; add 'image' to planes")
