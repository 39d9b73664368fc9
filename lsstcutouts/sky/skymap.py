"""Finds the tract and patch of sky positions, from the Butler's dimension records alone (no ``lsst.skymap``).

Rubin skymaps project each tract with a gnomonic (``TAN``) projection, which is projective: the four corners of the
tract's region, as unit vectors, determine the whole transformation from sky to pixels exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import GeometryMismatchError, SkyMapError
from .geometry import YX, Box, TanProjection, projection_from_corners

__all__ = ["KNOWN_RINGS", "RingsGeometry", "SkyMap", "Tract", "check_projection", "unit_vectors"]

WCS_TOLERANCE = 0.01
"""Largest allowed difference between the WCS of a file and that of its tract, anywhere in the file, pixels."""

_GRID_POINTS = 21
"""Number of pixels along each side of a file at which the WCSs are compared."""


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    """Return the unit vectors ``(N, 3)``, ``(x, y, z)`` in ICRS, of positions ``(N,)`` in degrees ICRS."""
    alpha, delta = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    return np.stack([np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=-1)


@dataclass(frozen=True, slots=True)
class Tract:
    """One tract: its projection and its grid of patches.

    Attributes
    ----------
    id
        Tract number in the skymap.
    projection
        Projection between sky and tract pixels.
    grid
        Number of patches ``(y, x)``.
    inner
        Rows and columns of a patch's inner region; the inner regions tile the tract exactly.
    """

    id: int
    projection: TanProjection
    grid: YX[int]
    inner: YX[int]

    @property
    def bbox(self) -> Box:
        """The union of the inner regions, tract pixels."""
        return Box(0, self.grid.y * self.inner.y, 0, self.grid.x * self.inner.x)

    @property
    def radius(self) -> float:
        """Upper bound of the distance from the tangent point to any corner, radians."""
        return float(np.arccos(_cosine(self, 0.0)))

    @classmethod
    def from_corners(
        cls,
        tract: int,
        corners: NDArray[np.float64],
        *,
        grid: YX[int] | None = None,
        inner: YX[int] | None = None,
        pixel_scale: YX[float] | None = None,
    ) -> "Tract":
        """Return the tract with these corners.

        Parameters
        ----------
        tract
            Tract number.
        corners
            ``(4, 3)`` unit vectors, in any order: the outer edges of the tract's corner pixels.
        grid, inner
            Number of patches ``(y, x)``, or rows and columns of a patch's inner region; give one of them.
        pixel_scale
            Arcseconds per pixel ``(y, x)`` at the tangent point, from a file or a known skymap. If None, it is computed
            from the tangent point, which ``lsst.skymap`` puts half a pixel before the middle of a tract with an even
            number of pixels.

        Raises
        ------
        SkyMapError
            If the region does not have four corners, or a side is not an integer number of patches and pixels.
        """
        if corners.shape != (4, 3):
            raise SkyMapError(
                f"tract {tract}: its region has {len(corners)} corners, but cutouts need 4; use a skymap of TAN tracts, "
                "such as a RingsSkyMap"
            )
        parts = grid or inner
        if parts is None:
            raise SkyMapError(
                f"tract {tract}: the number and the size of its patches are unknown; give grid= or inner="
            )
        unit = projection_from_corners(corners)  # one pixel is one tract side here
        if pixel_scale is None:
            side = _side_from_tangent_point(tract, unit, parts)
        else:
            side = YX(
                *(_whole_pixels(tract, whole, one) for whole, one in zip(unit.pixel_scale, pixel_scale, strict=True))
            )
        if side.y % parts.y or side.x % parts.x:
            raise SkyMapError(
                f"tract {tract}: {side.y} x {side.x} px (y, x) cannot be divided by {parts.y} x {parts.x}; check the "
                "skymap and tract records of the repository"
            )
        other = YX(y=side.y // parts.y, x=side.x // parts.x)
        projection = TanProjection(
            crval=unit.crval,
            crpix=(unit.crpix[0] * side.x - 0.5, unit.crpix[1] * side.y - 0.5),
            cd=(unit.cd[0] / side.x, unit.cd[1] / side.y, unit.cd[2] / side.x, unit.cd[3] / side.y),
        )
        return cls(tract, projection, grid or other, inner or other)

    def patch_at(self, y: ArrayLike, x: ArrayLike) -> NDArray[np.int64]:
        """Return the number of the patch whose inner region contains each position; -1 outside the tract.

        ``y`` and ``x`` are tract pixels of one shape, which the result has too.
        """
        row = np.floor((np.asarray(y, np.float64) + 0.5) / self.inner.y)
        col = np.floor((np.asarray(x, np.float64) + 0.5) / self.inner.x)
        inside = (row >= 0) & (row < self.grid.y) & (col >= 0) & (col < self.grid.x)
        with np.errstate(invalid="ignore"):
            return np.where(inside, row * self.grid.x + col, -1).astype(np.int64)

    def nearest_patch(self, y: ArrayLike, x: ArrayLike) -> NDArray[np.int64]:
        """Return the number of the patch whose inner region contains each position or, outside the tract, is nearest.

        ``y`` and ``x`` are tract pixels of one shape, which the result has too.
        """
        row = np.clip(np.floor((np.asarray(y, np.float64) + 0.5) / self.inner.y), 0, self.grid.y - 1)
        col = np.clip(np.floor((np.asarray(x, np.float64) + 0.5) / self.inner.x), 0, self.grid.x - 1)
        return np.asarray(row * self.grid.x + col, np.int64)

    def is_at_edge(self, patch: int) -> bool:
        """Whether a patch lies at the edge of its tract."""
        row, col = divmod(patch, self.grid.x)
        return row in {0, self.grid.y - 1} or col in {0, self.grid.x - 1}

    def inner_box(self, patch: int) -> Box:
        """Return the inner region of a patch, tract pixels."""
        row, col = divmod(patch, self.grid.x)
        return Box.from_start(YX(row * self.inner.y, col * self.inner.x), self.inner)


def _whole_pixels(tract: int, side: float, scale: float) -> int:
    """Return the length of a tract side as an integer number of pixels, from its length and the pixel scale in arcseconds."""
    pixels = side / scale
    if not abs(pixels - round(pixels)) <= 0.01 or round(pixels) < 1:
        raise SkyMapError(
            f"tract {tract}: a side is {pixels:.3f} px at a pixel scale of {scale:.6g} arcsec, which is not an integer; "
            "check that the files and the skymap belong together"
        )
    return round(pixels)


def _side_from_tangent_point(tract: int, unit: TanProjection, parts: YX[int]) -> YX[int]:
    """Return the pixels along the sides of a tract, given that its tangent point is half a pixel from its middle."""
    off = YX(y=0.5 - unit.crpix[1], x=0.5 - unit.crpix[0])  # as a fraction of the tract's side
    sides = [0.5 / max(o, 1e-7) / n for o, n in zip(off, parts, strict=True)]
    if any(abs(side - round(side)) > 0.2 or round(side) < 1 for side in sides) or min(off) < 1e-6:
        raise SkyMapError(
            f"tract {tract}: the pixel scale cannot be determined from the tract's region alone, and no coadd could be "
            "read to measure it; check that the files exist and are readable"
        )
    return YX(*(round(side) * n for side, n in zip(sides, parts, strict=True)))


class PixelToSky(Protocol):
    """Transformation from tract pixels to the sky, from a file's WCS, with or without distortion."""

    @property
    def crval(self) -> tuple[float, float]:
        """Tangent point ``(ra, dec)``, degrees ICRS."""
        ...

    def pixel_to_sky(self, y: ArrayLike, x: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return ``(ra, dec)`` in degrees ICRS of tract pixels of any shape."""
        ...


def check_projection(
    mine: PixelToSky, reference: TanProjection, bbox: Box, what: str, whose: str = "its tract"
) -> None:
    """Check that two projections agree within `WCS_TOLERANCE` everywhere in a box.

    They are compared on a grid of `_GRID_POINTS` pixels per side, edges included: a SIP distortion, a polynomial of
    order nine at most, can be zero at the corners and large elsewhere.

    Parameters
    ----------
    mine, reference
        Projections of the file and of its tract.
    bbox
        Pixels of the file, tract pixels.
    what, whose
        Names of the file and of the tract, for the message.

    Raises
    ------
    GeometryMismatchError
        If they differ by more.
    """
    # The files of a patch have the same projection in all bands: compare it once.
    away, y, x = (
        _cached_largest_offset(mine, reference, bbox)
        if isinstance(mine, TanProjection)
        else _largest_offset(mine, reference, bbox)
    )
    if not away <= WCS_TOLERANCE:
        raise GeometryMismatchError(
            f"{what}: its WCS differs by {away:.3f} px from that of {whose} at pixel (y={y:.0f}, x={x:.0f}) (tangent point "
            f"{mine.crval} in the file, {reference.crval} in the tract); the file belongs to another tract or skymap, or "
            "its header is damaged: remove it from the collection or transfer it again"
        )


def _largest_offset(mine: PixelToSky, reference: TanProjection, bbox: Box) -> tuple[float, float, float]:
    """Return the largest distance between two projections, pixels, and the pixel ``(y, x)`` where it occurs."""
    y, x = np.meshgrid(
        np.linspace(bbox.y0, bbox.y1 - 1, _GRID_POINTS), np.linspace(bbox.x0, bbox.x1 - 1, _GRID_POINTS), indexing="ij"
    )
    yx = reference.sky_to_pixel(*mine.pixel_to_sky(y, x))
    away = np.hypot(yx.y - y, yx.x - x)
    worst = np.unravel_index(np.argmax(away), away.shape)  # argmax returns a NaN first
    return float(away[worst]), float(y[worst]), float(x[worst])


_cached_largest_offset = lru_cache(maxsize=256)(_largest_offset)


@dataclass(frozen=True)
class RingsGeometry:
    """Computes the tract layout of a ``RingsSkyMap`` (version 1).

    The sky is divided into rings of equal height in Dec, each ring into tracts of equal width in RA, and one tract
    covers each pole. Source: lsst/skymap, ``python/lsst/skymap/ringsSkyMap.py``.

    Attributes
    ----------
    inner
        Rows and columns of a patch's inner region, pixels.
    grid
        Number of patches ``(y, x)`` of a tract.
    pixel_scale
        Arcseconds per pixel at the tangent point.
    border
        Pixels by which a file extends beyond its inner region on each side.
    clipped
        Whether files are cut off at the edge of their tract.
    rings, ra_start
        Number of rings, and RA of the first tract of each ring, degrees.
    """

    inner: YX[int]
    grid: YX[int]
    pixel_scale: float
    border: int
    clipped: bool
    rings: int = 120
    ra_start: float = 0.0

    @property
    def height(self) -> float:
        """Height of a ring, radians; the two polar caps together have the height of one ring."""
        return float(np.pi / (self.rings + 1))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of tracts in each ring, ``(rings,)``, from south to north."""
        south = self.height * (np.arange(self.rings) + 0.5) - np.pi / 2
        nearest = np.minimum(np.abs(south), np.abs(south + self.height))
        return (2 * np.pi * np.cos(nearest) / self.height).astype(np.int64) + 1

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Number of the first tract of each ring and of the north cap, ``(rings + 1,)``."""
        return np.concatenate([[1], 1 + np.cumsum(self.counts)])

    @property
    def tracts(self) -> int:
        """Number of tracts on the whole sky."""
        return int(self.first[-1]) + 1

    def find(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the tract ``(N,)`` that ``RingsSkyMap.findTract`` assigns to positions ``(N,)`` in degrees ICRS.

        It is not always the tract with the nearest centre.
        """
        start = self.height / 2 - np.pi / 2
        delta = np.radians(np.asarray(dec, np.float64))
        ring = np.clip(((delta - start) / self.height).astype(np.int64), 0, self.rings - 1)
        count = self.counts[ring]
        turn = np.radians((np.asarray(ra, np.float64) - self.ra_start) % 360.0)
        number = (turn / (2 * np.pi / count) + 0.5).astype(np.int64) % count
        tract = self.first[ring] + number
        return np.where(delta < start, 0, np.where(delta > -start, self.tracts - 1, tract)).astype(np.int64)

    def near(
        self, ra: NDArray[np.float64], dec: NDArray[np.float64], radius: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all pairs ``(row, tract)``, ``(M,)`` each, of a position and a tract whose centre is within ``radius``.

        Positions ``(N,)`` and ``radius`` are in degrees.
        """
        reach, delta = np.radians(radius) + 1e-9, np.radians(np.asarray(dec, np.float64))
        turn = np.radians((np.asarray(ra, np.float64) - self.ra_start) % 360.0)
        ring = np.floor((delta + np.pi / 2) / self.height - 0.5).astype(np.int64)
        span = int(reach / self.height) + 1
        south, north = np.flatnonzero(delta + np.pi / 2 <= reach), np.flatnonzero(np.pi / 2 - delta <= reach)
        pairs = [(south, np.zeros_like(south)), (north, np.full_like(north, self.tracts - 1))]
        for step in range(-span, span + 1):
            rows = np.flatnonzero((ring + step >= 0) & (ring + step < self.rings))
            pairs.append(self._near_in_ring(rows, ring[rows] + step, turn[rows], delta[rows], reach))
        row, tract = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        return row, tract

    def _near_in_ring(
        self,
        rows: NDArray[np.int64],
        ring: NDArray[np.int64],
        turn: NDArray[np.float64],
        delta: NDArray[np.float64],
        reach: float,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pairs for one given ring per position, by the spherical law of cosines; angles in radians."""
        centre = self.height * (ring + 1) - np.pi / 2
        # At a pole every RA is at the same distance: with a tiny divisor either all tracts of the ring match, or none.
        across = np.maximum(np.cos(centre) * np.cos(delta), 1e-300)
        cosine = (np.cos(reach) - np.sin(centre) * np.sin(delta)) / across
        half = np.arccos(np.clip(cosine, -1, 1))
        count = self.counts[ring]
        width = 2 * np.pi / count
        first = np.ceil((turn - half) / width).astype(np.int64)
        last = np.floor((turn + half) / width).astype(np.int64)
        many = np.where(cosine > 1, 0, np.minimum(last - first + 1, count))
        owner = np.repeat(np.arange(len(rows)), many)
        index = np.arange(len(owner)) - np.repeat(np.cumsum(many) - many, many)
        return rows[owner], self.first[ring[owner]] + (first[owner] + index) % count[owner]

    def centre(self, tract: int) -> tuple[float, float]:
        """Return the tangent point ``(ra, dec)`` of a tract, degrees ICRS; `SkyMapError` for an unknown tract."""
        if not 0 <= tract < self.tracts:
            raise SkyMapError(f"this skymap has no tract {tract}, only tracts 0 to {self.tracts - 1}")
        if tract in {0, self.tracts - 1}:
            return 0.0, -90.0 if tract == 0 else 90.0
        ring = int(np.searchsorted(self.first, tract, side="right")) - 1
        ra = 360.0 * (tract - int(self.first[ring])) / int(self.counts[ring]) + self.ra_start
        return ra % 360.0, float(np.degrees(self.height * (ring + 1) - np.pi / 2))


KNOWN_RINGS: Mapping[str, RingsGeometry] = {
    # lsst_cells_v1 (DP1) and lsst_cells_v2 (DP2)
    "e2736e41244df00bbdb93aecac0ae4b2d19dda91": RingsGeometry(YX(3000, 3000), YX(10, 10), 0.2, 200, clipped=False),
    "a5f11e561505dc6b24ec8f4ef547bc592e8299da": RingsGeometry(YX(3000, 3000), YX(10, 10), 0.2, 150, clipped=False),
    # DC2 (DP0.2) and hsc_rings_v1
    "1e5fa85fe242606426528f5f7b8dbf01cbaaff9e": RingsGeometry(YX(4000, 4000), YX(7, 7), 0.2, 100, clipped=True),
    "e29fe9f1008e359f36a3677e7d69cc439376d1e6": RingsGeometry(YX(4000, 4000), YX(9, 9), 0.168, 100, clipped=True),
}
"""Layout by the hash of a skymap's dimension record. The hash covers every setting of the skymap, so equal hashes mean
equal geometry. All hashes come from real records: the DP1 and DP2 registries, ``DC2`` in lsst/ap_verify_ci_dc2
(``config/export.yaml``), and ``hsc_rings_v1`` in lsst/testdata_jointcal (``hsc/exports.yaml``)."""


@dataclass(frozen=True)
class SkyMap:
    """The tracts of one skymap, as far as the coadds need them.

    Attributes
    ----------
    name
        Name of the skymap in the repository.
    tracts
        Tracts by number.
    rings
        Layout of a known ring skymap; None for other skymaps.
    neighbours
        Only for other skymaps: neighbouring tracts without coadds, each as one patch. A position may belong to them.
    """

    name: str
    tracts: Mapping[int, Tract]
    rings: RingsGeometry | None = None
    neighbours: Mapping[int, Tract] = field(default_factory=dict)

    def find(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the number of the tract, ``(N,)``, to which each position ``(N,)`` in degrees ICRS belongs; -1 for none.

        On a known ring skymap it is the tract that ``RingsSkyMap.findTract`` returns, which may be missing from
        ``tracts``; on other skymaps it is the tract with the nearest centre among those that contain the position.
        """
        if self.rings is not None:
            return self.rings.find(ra, dec)
        sky = unit_vectors(ra, dec)
        best = np.full(len(sky), -1, np.int64)
        nearest = np.full(len(sky), -np.inf)
        for number, tract in (*self.tracts.items(), *self.neighbours.items()):
            closeness = sky @ unit_vectors(*tract.projection.crval)
            near = np.flatnonzero((closeness > nearest) & (closeness >= _cosine(tract, 0.0)))
            yx = tract.projection.sky_to_pixel(ra[near], dec[near])
            inside = near[tract.patch_at(yx.y, yx.x) >= 0]
            best[inside], nearest[inside] = number, closeness[inside]
        return best

    def near(
        self, ra: NDArray[np.float64], dec: NDArray[np.float64], margin: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return pairs ``(row, tract)``, ``(M,)`` each: every tract that may lie within ``margin`` pixels of a position.

        Positions ``(N,)`` are in degrees ICRS. On a known ring skymap all tracts of the sky are searched, on other
        skymaps only ``tracts``.
        """
        if self.rings is not None:
            side = np.asarray(self.rings.inner) * np.asarray(self.rings.grid)
            return self.rings.near(ra, dec, _radius(side, self.rings.pixel_scale, margin))
        sky = unit_vectors(ra, dec)
        rows, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, tract in self.tracts.items():
            closeness = sky @ unit_vectors(*tract.projection.crval)
            rows.append(np.flatnonzero(closeness >= _cosine(tract, margin)))
            numbers.append(np.full(len(rows[-1]), number, np.int64))
        return np.concatenate(rows), np.concatenate(numbers)


def _cosine(tract: Tract, margin: float) -> float:
    """Return the cosine of the largest angle between a tract's tangent point and any point within ``margin`` pixels."""
    radius = _radius(np.asarray(tract.bbox.shape), max(tract.projection.pixel_scale), margin)
    return float(np.cos(np.radians(min(radius, 90.0))))


def _radius(side: NDArray[np.int64], scale: float, margin: float) -> float:
    """Return an upper bound of the distance, degrees, from a tract's tangent point to points within ``margin`` pixels.

    ``side`` is the tract's shape in pixels ``(y, x)``. An angle is smaller than its gnomonic image; two extra pixels
    allow for a tangent point that is not in the middle of the tract.
    """
    return float((np.hypot(*side) / 2 + np.sqrt(2) * margin + 2) * scale / 3600)
