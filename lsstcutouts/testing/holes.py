"""Areas without data: empty cells, and rectangles where no input image had a good pixel."""

from dataclasses import replace
from io import BytesIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from ..sky.geometry import YX, Box
from .config import KNOWN_BANDS, SimulationConfig
from .exposure import CoaddPixels

__all__ = ["punched"]

BACKGROUND = 0.25
"""Subtracted sky, nJy per pixel: pixels without data have the negative of it."""
ATTEMPTS = 50


def punched(pixels: CoaddPixels, config: SimulationConfig) -> CoaddPixels:
    """Remove the data of a rectangle in every second file, and of a whole cell in every third."""
    if not config.holes:
        return pixels
    rng = np.random.default_rng([config.seed, 5, pixels.patch, KNOWN_BANDS.index(pixels.band)])
    cell, psf = config.cell_shape, pixels.psf.copy()
    no_data = np.zeros(pixels.box.shape, bool)
    if pixels.number % 2 == 0:
        no_data[_rectangle(pixels.variance, cell, rng)] = True
    if pixels.number % 3 == 0:
        i, j = rng.integers(psf.shape[0]), rng.integers(psf.shape[1])
        no_data[i * cell.y : (i + 1) * cell.y, j * cell.x : (j + 1) * cell.x] = True
        psf[i, j] = np.nan
    image = np.where(no_data, np.float32(-BACKGROUND), pixels.image)
    return replace(pixels, image=image, psf=psf, masks={**pixels.masks, "NO_DATA": no_data})


def _rectangle(variance: NDArray[np.float32], cell: YX[int], rng: np.random.Generator) -> tuple[slice, slice]:
    """Return a rectangle that survives lossy compression; an empty one if there is none."""
    shape = YX(cell.y // 3, cell.x)
    room = YX(variance.shape[0] - shape.y, variance.shape[1] - shape.x)
    for _ in range(ATTEMPTS):
        start = YX(int(rng.integers(room.y + 1)), int(rng.integers(room.x + 1)))
        box = Box.from_start(start, shape)
        if _is_kept(variance, box, cell):
            return box.slices()
    return slice(0, 0), slice(0, 0)


def _is_kept(variance: NDArray[np.float32], box: Box, cell: YX[int]) -> bool:
    """Return whether infinite variance in a box survives lossy compression of the tiles that it touches.

    The compressor estimates the noise of a tile by a median, which infinite pixels can turn into NaN; then the whole
    tile is lost. This depends on the positions of the pixels in the tile.
    """
    y0, x0 = box.y0 // cell.y * cell.y, box.x0 // cell.x * cell.x
    y1, x1 = -(-box.y1 // cell.y) * cell.y, -(-box.x1 // cell.x) * cell.x
    tiles = variance[y0:y1, x0:x1].copy()
    tiles[box.slices(YX(y0, x0))] = np.inf
    stream = BytesIO()
    hdu = fits.CompImageHDU(
        tiles, compression_type="RICE_1", tile_shape=cell, quantize_level=16.0, quantize_method=2, dither_seed=1
    )
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)
    stream.seek(0)
    with fits.open(stream) as back:
        return bool(np.array_equal(np.isfinite(back[1].data), np.isfinite(tiles)))
