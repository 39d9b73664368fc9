"""Names of the arrays of a batch that are images."""

from torch import Tensor

from ..errors import ConfigurationError
from .batch import TensorBatch

__all__ = ["PLANES", "pixel_planes", "pixel_sides"]

PLANES = ("image", "variance", "ivar", "mask", "valid", "psf")
"""Arrays with axes ``(N, B, Y, X)``; the last two are pixels."""


def pixel_planes(batch: TensorBatch) -> dict[str, Tensor]:
    """Return the planes on the pixel grid of the cutout, ``(N, B, Y, X)``: all except the PSF."""
    return {name: v for name in PLANES if name != "psf" and isinstance(v := batch.get(name), Tensor)}


def pixel_sides(batch: TensorBatch, by: str) -> tuple[int, int]:
    """Return ``(height, width)`` in pixels; raise `~lsstcutouts.errors.ConfigurationError` if the batch has no plane."""
    for plane in pixel_planes(batch).values():
        return plane.shape[-2], plane.shape[-1]
    raise ConfigurationError(f"{by} needs pixels, but the batch has none; add 'image' to planes")
