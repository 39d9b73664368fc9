"""DP2 files: `lsst.images` cell coadds."""

import astropy.units as u
import lsst.images as li
import numpy as np
from lsst.images.cells import CellCoadd, CellGrid, CellGridBounds, CellIJ, CellPointSpreadFunction, PatchDefinition
from numpy.typing import NDArray

from ..sky.geometry import YX, Box
from .exposure import CoaddPixels
from .simulated_skymap import SimulatedSkyMap

__all__ = ["STORAGE_CLASS", "cell_coadd", "datastore_formatter"]

STORAGE_CLASS = "CellCoadd"


def datastore_formatter(compression: str) -> dict[str, object]:
    """Return the datastore's ``formatters`` configuration for a compression recipe."""
    formatter: dict[str, object] = {"formatter": "lsst.images.formatters.GenericFormatter"}
    if compression == "lossy16":
        formatter["parameters"] = {"recipe": "lossy16"}
    return {STORAGE_CLASS: formatter}


def cell_coadd(pixels: CoaddPixels, skymap: SimulatedSkyMap, cell: YX[int], rng: np.random.Generator) -> CellCoadd:
    """Return a coadd as a `lsst.images.cells.CellCoadd`.

    Parameters
    ----------
    pixels
        Planes of the coadd.
    skymap
        Skymap of the coadd.
    cell
        Shape of a cell, pixels.
    rng
        Random numbers that assign mask planes to bits.
    """
    box = _box(pixels.box)
    grid = CellGrid(bbox=box, cell_shape=li.YX(*cell))
    return CellCoadd(
        li.Image(pixels.image, bbox=box, unit=u.nJy),
        mask=_mask(pixels, rng),
        variance=li.Image(_variance(pixels), bbox=box, unit=u.nJy**2),
        mask_fractions={} if pixels.rejected is None else {"rejected": li.Image(pixels.rejected, bbox=box)},
        noise_realizations=[li.Image(noise, bbox=box) for noise in pixels.noise],
        sky_projection=_projection(skymap),
        band=pixels.band,
        psf=_psf(pixels, grid),
        patch=_patch(pixels.patch, skymap, grid),
    )


def _box(box: Box) -> li.Box:
    return li.Box.factory[box.y0 : box.y1, box.x0 : box.x1]


def _variance(pixels: CoaddPixels) -> NDArray[np.float32]:
    return np.where(pixels.no_data, np.float32(np.inf), pixels.variance)


def _mask(pixels: CoaddPixels, rng: np.random.Generator) -> li.Mask:
    planes = {plane.name: plane for plane in li.get_legacy_deep_coadd_mask_planes().values()}
    names = rng.permutation(sorted(planes))
    mask = li.Mask(0, schema=li.MaskSchema([planes[str(name)] for name in names]), bbox=_box(pixels.box))
    for name, where in pixels.masks.items():
        mask.set(name, where)
    return mask


def _psf(pixels: CoaddPixels, grid: CellGrid) -> CellPointSpreadFunction:
    missing = frozenset(CellIJ(i=i, j=j) for i, j in pixels.empty_cells)
    return CellPointSpreadFunction(pixels.psf, CellGridBounds(grid=grid, bbox=grid.bbox, missing=missing))


def _patch(patch: int, skymap: SimulatedSkyMap, grid: CellGrid) -> PatchDefinition:
    index, inner = skymap.index(patch), _box(skymap.inner_box(patch))
    return PatchDefinition(id=patch, index=li.YX(*index), inner_bbox=inner, cells=grid)


def _projection(skymap: SimulatedSkyMap) -> li.SkyProjection[li.TractFrame]:
    frame = li.TractFrame(skymap=skymap.name, tract=skymap.tract, bbox=_box(skymap.tract_box))
    return li.SkyProjection.from_fits_wcs(skymap.wcs, frame)
