"""The planes of one coadd file: image, variance, mask and point-spread function, independent of the file format."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..sky.geometry import YX, Box
from .config import KNOWN_BANDS, SimulationConfig
from .light import PointSpread, Sources, paint
from .simulated_skymap import SimulatedSkyMap

__all__ = ["CoaddPixels", "expose_patch"]

SEEING = (1.02, 0.95, 0.86, 0.82, 0.80, 0.82)
"""Full width at half maximum in ugrizy, arcseconds."""
SKY_NOISE = (6.0, 3.5, 4.5, 7.0, 11.0, 24.0)
"""Sky noise in ugrizy, nJy per pixel."""
GAIN = 0.05
"""Variance in nJy² per nJy of flux from sources."""
SATURATION = 30_000.0
"""Flux above which a pixel is saturated, nJy."""
DETECTION = 2.5
"""Smallest flux of a detected pixel, in units of the sky noise."""
PSF_SIDE = 35
"""Side of a stored point-spread function in pixels, as in DP2."""
MARGIN = 40
"""Pixels simulated around a file: the convolution wraps around, and the affected border is cut off."""


@dataclass(frozen=True)
class CoaddPixels:
    """The planes of one coadd.

    Attributes
    ----------
    patch, band, number
        Patch id, band and sequence number of the file.
    box
        Box of the file, tract pixels.
    image
        ``(Y, X)`` nJy, finite everywhere.
    variance
        ``(Y, X)`` nJy², finite everywhere.
    masks
        Mask planes by DP2 name, ``(Y, X)`` bool.
    psf
        Point-spread functions of the cells, ``(cells_y, cells_x, PSF_SIDE, PSF_SIDE)``; NaN in an empty cell.
    noise
        Noise realizations, ``(Y, X)`` nJy each.
    rejected
        ``(Y, X)`` fraction of the input images that were rejected.
    """

    patch: int
    band: str
    number: int
    box: Box
    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    masks: dict[str, NDArray[np.bool_]]
    psf: NDArray[np.float64]
    noise: list[NDArray[np.float32]]
    rejected: NDArray[np.float32] | None

    @property
    def no_data(self) -> NDArray[np.bool_]:
        """``(Y, X)`` bool: pixels without data."""
        return self.masks["NO_DATA"]

    @property
    def empty_cells(self) -> list[tuple[int, int]]:
        """Row and column of the cells without data."""
        return [(int(i), int(j)) for i, j in np.argwhere(np.isnan(self.psf[:, :, 0, 0]))]


def expose_patch(
    config: SimulationConfig, skymap: SimulatedSkyMap, sources: Sources, patch: int
) -> Iterator[CoaddPixels]:
    """Yield the coadds of a patch, one per band that is not missing.

    The sky is the same for all patches, but the noise differs between files, so that tests notice if a wrong file is read.
    """
    box = skymap.outer_box(patch)
    wide = Box(box.y0 - MARGIN, box.y1 + MARGIN, box.x0 - MARGIN, box.x1 + MARGIN)
    canvases = paint(sources, wide)
    first = config.patch_ids.index(patch) * len(config.band_names)
    for n, band in enumerate(config.band_names):
        if (patch, band) not in config.missing_files:
            yield _expose(config, _File(patch, band, first + n, box), canvases[n])


class _File(NamedTuple):
    patch: int
    band: str
    number: int
    box: Box


def _expose(config: SimulationConfig, file: _File, canvas: NDArray[np.float32]) -> CoaddPixels:
    box, index = file.box, KNOWN_BANDS.index(file.band)
    rng = np.random.default_rng([config.seed, 3, config.tract, file.patch, index])
    spread = PointSpread(SEEING[index] / config.pixel_scale * rng.uniform(0.97, 1.03))
    light = spread.blur(canvas)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    cells = YX(-(-box.shape.y // config.cell_shape.y), -(-box.shape.x // config.cell_shape.x))
    psf = _stored_psf(spread, cells, rng)
    sky = SKY_NOISE[index]
    variance = _variance(light, sky, cells, config.cell_shape, rng)
    image = light + _noise(variance, rng)
    masks = _masks(light, sky, rng)
    noise = [_noise(variance, rng) for _ in range(config.noise_realizations)]
    rejected = masks["REJECTED"].astype(np.float32) * np.float32(0.25) if config.mask_fractions else None
    return CoaddPixels(*file, image, variance, masks, psf, noise, rejected)


def _noise(variance: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(variance) * rng.standard_normal(variance.shape, np.float32), np.float32)


def _stored_psf(spread: PointSpread, cells: YX[int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the stored PSF of each cell, ``(cells_y, cells_x, PSF_SIDE, PSF_SIDE)``: the true PSF with an error of 1 percent."""
    widths = spread.fwhm * rng.normal(1.0, 0.01, cells)
    kernels = [PointSpread(width).kernel(PSF_SIDE) for width in widths.ravel().tolist()]
    return np.array(kernels).reshape(*cells, PSF_SIDE, PSF_SIDE)


def _variance(
    light: NDArray[np.float32], sky: float, cells: YX[int], cell: YX[int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the true variance ``(Y, X)`` in nJy²: that of the sky, which differs between cells, plus that of the sources."""
    depth = rng.uniform(0.85, 1.15, cells).astype(np.float32) * np.float32(sky**2)
    whole = np.repeat(np.repeat(depth, cell.y, axis=0), cell.x, axis=1)[: light.shape[0], : light.shape[1]]
    ripple = 1.0 + np.float32(0.01) * rng.standard_normal(light.shape, np.float32)
    return np.asarray(whole * ripple + np.float32(GAIN) * np.maximum(light, 0.0), np.float32)


def _masks(light: NDArray[np.float32], sky: float, rng: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
    shape = YX(*light.shape)
    saturated = light > SATURATION
    struck = _streaks(shape, rng)
    clipped = _rectangle(shape, YX(max(2, shape.y // 40), max(2, shape.x // 30)), rng)
    rejected = clipped | saturated
    return {
        "NO_DATA": np.zeros(shape, bool),
        "INTERPOLATED": struck | saturated,
        "COSMIC_RAY": struck,
        "SATURATED": saturated,
        "DETECTION_EDGE": _edge(shape, 5),
        "CLIPPED": clipped,
        "REJECTED": rejected,
        "DETECTED": light > DETECTION * sky,
        "INEXACT_PSF": rejected,
    }


def _streaks(shape: YX[int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return short diagonal lines of pixels, as from cosmic rays, ``(Y, X)`` bool."""
    hit = np.zeros(shape, bool)
    count = max(2, shape.y * shape.x // 40_000)
    step = np.arange(6)
    y = rng.integers(0, max(1, shape.y - 6), (count, 1)) + step
    x = rng.integers(0, max(1, shape.x - 6), (count, 1)) + step
    hit[y, x] = True
    return hit


def _rectangle(shape: YX[int], size: YX[int], rng: np.random.Generator) -> NDArray[np.bool_]:
    area = np.zeros(shape, bool)
    y, x = rng.integers(0, max(1, shape.y - size.y)), rng.integers(0, max(1, shape.x - size.x))
    area[y : y + size.y, x : x + size.x] = True
    return area


def _edge(shape: YX[int], width: int) -> NDArray[np.bool_]:
    edge = np.ones(shape, bool)
    edge[width:-width, width:-width] = False
    return edge
