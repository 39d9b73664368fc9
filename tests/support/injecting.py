"""Empty cutouts to inject sources into, and PSF kernels."""

import galsim
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsstcutouts.testing.light import PointSpread

from .augmenting import Batch

SCALE = 0.2
KERNEL = 35
TIGHT = galsim.GSParams(
    folding_threshold=1e-4,
    maxk_threshold=1e-4,
    kvalue_accuracy=1e-7,
    xvalue_accuracy=1e-7,
    integration_relerr=1e-8,
    integration_abserr=1e-10,
    maximum_fft_size=20_000,
    stepk_minimum_hlr=10,
)
MOFFATS = [
    (0.8, 2.5, 0.0, 0.0),
    (0.75, 3.0, 0.05, 0.0),
    (0.8, 3.5, 0.0, 0.1),
    (0.9, 4.5, 0.2, -0.1),
    (1.1, 2.8, -0.3, 0.0),
    (1.0, 3.0, 0.15, 0.25),
    (0.95, 4.765, -0.1, -0.25),
]
"""Full width at half maximum in arcsec, beta, and shear."""


def effective(psf: tuple[float, ...]) -> galsim.GSObject:
    """Return a Moffat profile convolved with the pixel."""
    fwhm, beta, g1, g2 = psf
    profile = galsim.Moffat(beta=beta, fwhm=fwhm, gsparams=TIGHT).shear(g1=g1, g2=g2)
    return galsim.Convolve(profile, galsim.Pixel(SCALE), gsparams=TIGHT)


def kernels(side: int = KERNEL) -> NDArray[np.float64]:
    """Return ten kernels ``(10, side, side)``: three of `simulate`, seven Moffat profiles, most of them elliptical."""
    simulated = [PointSpread(fwhm / SCALE).kernel(side) for fwhm in (0.7, 0.85, 1.0)]
    drawn = [
        effective(one).drawImage(nx=side, ny=side, scale=SCALE, method="no_pixel", dtype=float).array for one in MOFFATS
    ]
    return np.array([*simulated, *drawn])


def wcs_of(matrix: NDArray[np.float64], count: int = 1, *, dec: float = -28.0) -> Tensor:
    """Return ``wcs`` ``(N, 8)`` for a matrix of arcsec (east, north) per pixel (x, y), of targets away from ``crval``."""
    row = [53.1, dec, 13.25, -4.5, *(np.asarray(matrix) / 3600).ravel()]
    return torch.tensor(row, dtype=torch.float64).repeat(count, 1)


NORTH_UP = np.array([[-SCALE, 0.0], [0.0, SCALE]])


def empty_cutouts(
    count: int = 4,
    bands: int = 3,
    y: int = 40,
    x: int = 52,
    *,
    psf: int = KERNEL,
    matrix: NDArray[np.float64] = NORTH_UP,
    first: int = 0,
) -> Batch:
    """Return a batch without sources; rows are the same whatever ``count`` and ``first``."""
    generator = torch.Generator().manual_seed(4)
    rows = slice(first, first + count)
    spread = PointSpread(0.8 / SCALE).kernel(psf)
    batch = {
        "image": torch.zeros(64, bands, y, x),
        "variance": torch.full((64, bands, y, x), 9.0),
        "ivar": torch.full((64, bands, y, x), 1 / 9),
        "valid": torch.ones(64, bands, y, x, dtype=torch.bool),
        "psf": torch.from_numpy(spread).float().repeat(64, bands, 1, 1),
        "psf_present": torch.ones(64, bands, dtype=torch.bool),
        "band_present": torch.ones(64, bands, dtype=torch.bool),
        "object_id": torch.arange(64) * 7919 + 2**60,
        "offset": torch.rand(64, 2, generator=generator) - 0.5,
        "wcs": wcs_of(matrix, 64),
        "yx0": torch.randint(0, 9000, (64, 2), generator=generator),
    }
    return {name: value[rows].clone() for name, value in batch.items()}
