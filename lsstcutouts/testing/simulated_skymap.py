"""Geometry and Butler records of the simulated skymap.

A full-size configuration has the geometry, name and hash of the real skymap. Sky positions are computed by
`astropy.wcs`, not by the projection of this package, so that tests can compare the two.
"""

import hashlib
import math
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import astropy.wcs
import numpy as np
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d
from numpy.typing import ArrayLike, NDArray

from ..sky.geometry import YX, Box
from .config import FULL_SIZE, TRACT_COUNT, SimulationConfig

__all__ = ["SimulatedSkyMap", "ring_tract_centre", "skymap_of"]

RING_COUNT = 120
TRACT_OVERLAP = 1.0 / 60.0
REAL_NAME = {"dp1": "lsst_cells_v1", "dp2": "lsst_cells_v2"}
CELL_BORDER = {"dp1": 50, "dp2": 0}
"""Pixels by which the outer box of a patch extends beyond the border of one cell, in the real skymaps."""


@dataclass(frozen=True)
class SimulatedSkyMap:
    """One tract of a ring skymap, divided into a grid of patches.

    Attributes
    ----------
    name, hash
        Name and hash in the ``skymap`` dimension record.
    tract
        Tract id.
    centre
        Tangent point ``(ra, dec)``, degrees ICRS.
    grid
        Patches per tract, ``(y, x)``.
    inner, border
        Shape of the inner box of a patch, and the border that the outer box adds on each side, pixels.
    pixel_scale
        Arcseconds per pixel at the tangent point.
    """

    name: str
    hash: bytes
    tract: int
    centre: tuple[float, float]
    grid: YX[int]
    inner: YX[int]
    border: YX[int]
    pixel_scale: float

    @property
    def tract_box(self) -> Box:
        """Union of the inner boxes."""
        return Box(0, self.grid.y * self.inner.y, 0, self.grid.x * self.inner.x)

    @cached_property
    def wcs(self) -> astropy.wcs.WCS:
        """World coordinates of the tract; astropy's 0-based pixels are tract pixels."""
        wcs = astropy.wcs.WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.crval = list(self.centre)
        # The real tracts of 30000 px have their tangent point at 14999 (0-based), half a pixel from the middle.
        wcs.wcs.crpix = [self.tract_box.x1 // 2, self.tract_box.y1 // 2]
        wcs.wcs.cd = [[-self.pixel_scale / 3600.0, 0.0], [0.0, self.pixel_scale / 3600.0]]
        wcs.wcs.radesys = "ICRS"
        wcs.wcs.set()
        return wcs

    def index(self, patch: int) -> YX[int]:
        """Return row and column of a patch."""
        return YX(*divmod(patch, self.grid.x))

    def inner_box(self, patch: int) -> Box:
        """Return the inner box of a patch, tract pixels."""
        row, column = self.index(patch)
        return Box.from_start(YX(row * self.inner.y, column * self.inner.x), self.inner)

    def outer_box(self, patch: int) -> Box:
        """Return the box of the files of a patch, tract pixels; it may extend beyond the tract."""
        inner = self.inner_box(patch)
        by, bx = self.border
        return Box(inner.y0 - by, inner.y1 + by, inner.x0 - bx, inner.x1 + bx)

    def primary_patch(self, y: ArrayLike, x: ArrayLike) -> NDArray[np.int64]:
        """Return the id of the patch whose inner box contains each position in tract pixels."""
        row = np.floor((np.asarray(y) + 0.5) / self.inner.y).astype(np.int64)
        column = np.floor((np.asarray(x) + 0.5) / self.inner.x).astype(np.int64)
        return np.asarray(row * self.grid.x + column)

    def sky(self, y: ArrayLike, x: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return ``(ra, dec)``, degrees ICRS, of tract pixels."""
        ra, dec = self.wcs.all_pix2world(np.asarray(x, np.float64), np.asarray(y, np.float64), 0)
        return np.asarray(ra), np.asarray(dec)

    def region(self, box: Box) -> ConvexPolygon:
        """Return the sky region of a box, from the outer edges of its outermost pixels."""
        y = np.array([box.y0, box.y0, box.y1, box.y1]) - 0.5
        x = np.array([box.x0, box.x1, box.x1, box.x0]) - 0.5
        ra, dec = self.sky(y, x)
        corners = zip(ra.tolist(), dec.tolist(), strict=True)
        return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*corner)) for corner in corners])

    def skymap_record(self) -> dict[str, Any]:
        """Return the ``skymap`` dimension record."""
        nx, ny = self.grid.x, self.grid.y
        return {
            "name": self.name,
            "hash": self.hash,
            "tract_max": TRACT_COUNT,
            "patch_nx_max": nx,
            "patch_ny_max": ny,
        }

    def tract_record(self) -> dict[str, Any]:
        """Return the ``tract`` dimension record."""
        return {"skymap": self.name, "id": self.tract, "region": self.region(self.tract_box)}

    def patch_records(self) -> list[dict[str, Any]]:
        """Return the ``patch`` dimension records of the tract."""
        return [self._patch_record(patch) for patch in range(self.grid.y * self.grid.x)]

    def _patch_record(self, patch: int) -> dict[str, Any]:
        row, column = self.index(patch)
        region = self.region(self.outer_box(patch))
        keys = {"skymap": self.name, "tract": self.tract, "id": patch}
        return {**keys, "cell_x": column, "cell_y": row, "region": region}


def skymap_of(config: SimulationConfig) -> SimulatedSkyMap:
    """Return the skymap of a configuration."""
    cells, cell, grid = config.cell_grid, config.cell_shape, config.patch_grid
    # The border scales with the patch: 150 px (DP2) and 200 px (DP1) at full size.
    extra = CELL_BORDER[config.release] / 150.0
    return SimulatedSkyMap(
        name=REAL_NAME[config.release] if config.is_full_size else _small_name(config),
        hash=_real_hash(config.release) if config.is_full_size else _small_hash(config),
        tract=config.tract,
        centre=ring_tract_centre(config.tract),
        grid=grid,
        inner=YX(cells.y * cell.y, cells.x * cell.x),
        border=YX(round(cell.y * (1 + extra)), round(cell.x * (1 + extra))),
        pixel_scale=config.pixel_scale,
    )


def ring_tract_centre(tract: int) -> tuple[float, float]:
    """Return ``(ra, dec)``, degrees ICRS, of a tract's tangent point in the Rubin ring skymaps.

    Formula: ``RingsSkyMap.generateTract`` (version 1) of the LSST package ``skymap``, with 120 rings.
    """
    ring_size = math.pi / (RING_COUNT + 1)
    if tract in (0, TRACT_COUNT - 1):
        return 0.0, -90.0 if tract == 0 else 90.0
    place = tract - 1
    for ring in range(RING_COUNT):
        start = ring_size * (ring + 0.5) - 0.5 * math.pi
        nearest = min(abs(start), abs(start + ring_size))
        count = int(2.0 * math.pi * math.cos(nearest) / ring_size) + 1
        if place < count:
            return math.degrees(2.0 * math.pi * place / count), math.degrees(ring_size * (ring + 1) - 0.5 * math.pi)
        place -= count
    raise ValueError(f"tract={tract} must be from 0 to {TRACT_COUNT - 1}")


def _real_hash(release: str) -> bytes:
    """Return the hash of the real skymap, as ``BaseSkyMap.getSha1`` computes it from the settings in this order."""
    builder = struct.pack("<iiiiidd3sd", 150, 150, CELL_BORDER[release], 20, 1, TRACT_OVERLAP, 0.2, b"TAN", 0.0)
    return hashlib.sha1(b"RingsSkyMap" + builder + struct.pack("<id", RING_COUNT, 0.0)).digest()  # noqa: S324


def _small_name(config: SimulationConfig) -> str:
    parts = (config.cell_grid, config.cell_shape, config.patch_grid)
    scale = "" if config.pixel_scale == FULL_SIZE[3] else f"_{config.pixel_scale:g}"
    return f"simulated_{config.release}_" + "_".join(f"{y}x{x}" for y, x in parts) + scale


def _small_hash(config: SimulationConfig) -> bytes:
    return hashlib.sha1(_small_name(config).encode()).digest()  # noqa: S324
