"""PSFs of all kinds, batches that have them, and their width by a way of its own."""

import numpy as np
import torch
from numpy.typing import NDArray

from lsstcutouts.testing.light import PointSpread

from .augmenting import Batch, full_batch

SIDE = 35
SCALE = 0.2
"""Arcseconds per pixel."""

type Kernel = NDArray[np.float64]


def moffat(fwhm: float, beta: float = 3.5, *, ratio: float = 1.0, angle: float = 0.0, side: int = SIDE) -> Kernel:
    """A Moffat profile, ``(side, side)`` with the sum 1; ``fwhm`` in pixels is the mean of both axes (geometric)."""
    grid = np.arange(side) - side // 2
    along = grid * np.cos(angle) + grid[:, None] * np.sin(angle)
    across = grid[:, None] * np.cos(angle) - grid * np.sin(angle)
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    kernel = (1 + (along**2 * ratio + across**2 / ratio) / alpha**2) ** -beta
    return kernel / kernel.sum()


def simulated(fwhm: float, side: int = SIDE) -> Kernel:
    kernel = PointSpread(fwhm).kernel(side)
    return kernel / kernel.sum()


PSFS = {
    "simulated": simulated(4.0),
    "simulated, broad": simulated(4.9),
    "Moffat": moffat(4.4),
    "strong wings": moffat(3.6, 2.5),
    "elliptical": moffat(4.0, ratio=0.85, angle=0.6),
    "Gaussian": moffat(3.2, 200.0),
}
"""All can be matched to a width of 5.25 pixels."""


def fwhm_of(image: NDArray[np.floating]) -> float:
    """Return the width, in pixels, of a circle with the area above half the peak, in an image made 16 times as fine."""
    times = 16
    side = [n * times for n in image.shape]
    whole = np.fft.fftshift(np.fft.fft2(np.asarray(image, np.float64)))
    padded = np.zeros(side, complex)
    low = [(n - m) // 2 + (m % 2 and not n % 2) for n, m in zip(side, image.shape, strict=True)]
    padded[low[0] : low[0] + image.shape[0], low[1] : low[1] + image.shape[1]] = whole
    fine = np.fft.ifft2(np.fft.ifftshift(padded)).real
    return 2 * np.sqrt((fine >= fine.max() / 2).sum() / times**2 / np.pi)


def psf_batch(count: int = 6, y: int = 40, x: int = 53, *, bands: int = 3) -> Batch:
    """Return a batch with every plane, 0.2 arcsec a pixel, and the kernels of `PSFS` in turn."""
    batch = full_batch(count, bands, y, x, psf=SIDE)
    kernels = np.array(list(PSFS.values()), np.float32)
    turn = (np.arange(count)[:, None] + np.arange(bands)) % len(kernels)
    batch["psf"] = torch.from_numpy(kernels[turn])
    batch["wcs"][:, 4:] = torch.tensor([-SCALE, 0.01, 0.01, SCALE], dtype=torch.float64) / 3600
    batch["band_present"][:] = True
    return batch
