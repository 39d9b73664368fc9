"""Integer boxes on the tract's pixel grid, and the gnomonic projection between the grid and the sky.

Pixel coordinates follow the FITS and Rubin convention that the *centre* of the first pixel of the tract is
``(0.0, 0.0)``; axes are ``(y, x)`` wherever both occur.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["YX", "Box", "TanProjection", "box_start", "projection_from_corners", "sky_matrices"]

_AT_POLE = 1e-8
"""Radians: a tangent point closer to a pole than this is the pole. The error of a tangent point that is computed from
corners is 5e-9 for tracts of 200 px, and 1e-11 for those of Rubin's skymaps."""


class YX[T](NamedTuple):
    """A pair in ``(y, x)`` order: a position, a shape or a step, in pixels unless stated otherwise."""

    y: T
    x: T


class Box(NamedTuple):
    """A half-open box of whole pixels, in tract pixels: rows ``y0 <= y < y1``, columns ``x0 <= x < x1``."""

    y0: int
    y1: int
    x0: int
    x1: int

    @classmethod
    def from_start(cls, start: YX[int], shape: YX[int]) -> Self:
        """Return the box of ``shape`` pixels whose first pixel is ``start``."""
        return cls(start.y, start.y + shape.y, start.x, start.x + shape.x)

    @property
    def start(self) -> YX[int]:
        """First pixel ``(y, x)``, tract pixels."""
        return YX(self.y0, self.x0)

    @property
    def shape(self) -> YX[int]:
        """Number of rows and columns; never negative, 0 for an empty box."""
        return YX(max(0, self.y1 - self.y0), max(0, self.x1 - self.x0))

    @property
    def is_empty(self) -> bool:
        """Whether the box holds no pixel."""
        return self.y1 <= self.y0 or self.x1 <= self.x0

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.shape.y * self.shape.x

    def intersection(self, other: "Box") -> "Box":
        """Return the box of the common pixels, which may be empty."""
        return Box(max(self.y0, other.y0), min(self.y1, other.y1), max(self.x0, other.x0), min(self.x1, other.x1))

    def contains(self, other: "Box") -> bool:
        """Whether every pixel of ``other`` is a pixel of this box."""
        return self.y0 <= other.y0 and other.y1 <= self.y1 and self.x0 <= other.x0 and other.x1 <= self.x1

    def shifted(self, by: YX[int]) -> "Box":
        """Return the box moved by ``by`` pixels ``(y, x)``."""
        return Box(self.y0 + by.y, self.y1 + by.y, self.x0 + by.x, self.x1 + by.x)

    def relative_to(self, origin: YX[int]) -> "Box":
        """Return the box in pixels of an array whose element ``[0, 0]`` is the pixel ``origin``."""
        return self.shifted(YX(-origin.y, -origin.x))

    def slices(self, origin: YX[int] = YX(0, 0)) -> tuple[slice, slice]:
        """Return the slices ``(y, x)`` that select this box in an array whose element ``[0, 0]`` is the pixel ``origin``."""
        return slice(self.y0 - origin.y, self.y1 - origin.y), slice(self.x0 - origin.x, self.x1 - origin.x)


def box_start(centre: ArrayLike, size: ArrayLike) -> NDArray[np.int64]:
    """Return the first pixel of boxes of exactly ``size`` pixels around ``centre``.

    The formula is ``start = floor(centre - (size - 1) / 2 + 0.5)``; positions are rounded nowhere else. The middle of
    the box, ``start + (size - 1) / 2``, lies within half a pixel of the centre for odd and even sizes. The result is
    int64 tract pixels in the broadcast shape of ``centre`` and ``size``.

    Parameters
    ----------
    centre
        Positions in tract pixels, any shape, for example ``(N, 2)`` in the order ``(y, x)``.
    size
        Number of pixels along the same axis or axes, broadcast against ``centre``.
    """
    middle = np.asarray(centre, np.float64) - (np.asarray(size, np.float64) - 1.0) / 2.0
    return np.floor(middle + 0.5).astype(np.int64)


@dataclass(frozen=True, slots=True)
class TanProjection:
    """A gnomonic (FITS ``TAN``) projection without distortion, over tract pixels.

    Formulae: Calabretta & Greisen 2002, A&A 395, 1077, sections 2 and 5.1.3.

    Attributes
    ----------
    crval
        Tangent point ``(ra, dec)``, degrees ICRS.
    crpix
        Pixel of the tangent point ``(x, y)``, 0-based tract pixels.
    cd
        ``(cd1_1, cd1_2, cd2_1, cd2_2)``, degrees per pixel, for ``LONPOLE`` 180 (also at the poles).
    """

    crval: tuple[float, float]
    crpix: tuple[float, float]
    cd: tuple[float, float, float, float]

    @classmethod
    def of(cls, numbers: NDArray[np.float64]) -> Self:
        """Return the projection of eight numbers, as `numbers` has them."""
        ra, dec, x, y, *cd = np.asarray(numbers, np.float64).tolist()
        return cls((ra, dec), (x, y), (cd[0], cd[1], cd[2], cd[3]))

    @property
    def numbers(self) -> NDArray[np.float64]:
        """``(8,)`` ``crval``, ``crpix`` and ``cd``, as in the ``wcs`` of a batch."""
        return np.array([*self.crval, *self.crpix, *self.cd])

    @property
    def pixel_scale(self) -> YX[float]:
        """Arcseconds per pixel along ``(y, x)``, at the tangent point."""
        c11, c12, c21, c22 = self.cd
        return YX(y=float(np.hypot(c12, c22)) * 3600, x=float(np.hypot(c11, c21)) * 3600)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> YX[NDArray[np.float64]]:
        """Return the tract pixels of positions in degrees ICRS.

        ``ra`` and ``dec`` have any shape, broadcast against each other; ``y`` and ``x`` have the broadcast shape.
        Positions 90 degrees or more from the tangent point give NaN.
        """
        alpha = np.radians(np.asarray(ra, np.float64) - self.crval[0])
        delta = np.radians(np.asarray(dec, np.float64))
        delta0 = np.radians(self.crval[1])
        sin_d, cos_d, cos_a = np.sin(delta), np.cos(delta), np.cos(alpha)
        cosine = np.sin(delta0) * sin_d + np.cos(delta0) * cos_d * cos_a
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(cosine > 0, np.degrees(1.0) / cosine, np.nan)
            xi = scale * cos_d * np.sin(alpha)
            eta = scale * (np.cos(delta0) * sin_d - np.sin(delta0) * cos_d * cos_a)
        c11, c12, c21, c22 = self.cd
        det = c11 * c22 - c12 * c21
        x = (c22 * xi - c12 * eta) / det + self.crpix[0]
        y = (c11 * eta - c21 * xi) / det + self.crpix[1]
        return YX(y=np.asarray(y), x=np.asarray(x))

    def pixel_to_sky(self, y: ArrayLike, x: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return ``(ra, dec)`` in degrees ICRS, RA in [0, 360), of tract pixels of any shape."""
        dx = np.asarray(x, np.float64) - self.crpix[0]
        dy = np.asarray(y, np.float64) - self.crpix[1]
        c11, c12, c21, c22 = self.cd
        xi, eta = np.radians(c11 * dx + c12 * dy), np.radians(c21 * dx + c22 * dy)
        delta0 = np.radians(self.crval[1])
        north = np.cos(delta0) - eta * np.sin(delta0)
        ra = np.degrees(np.arctan2(xi, north)) + self.crval[0]
        dec = np.degrees(np.arctan2(np.sin(delta0) + eta * np.cos(delta0), np.hypot(xi, north)))
        return np.asarray(ra % 360.0), np.asarray(dec)

    def header(self, origin: YX[int] = YX(0, 0)) -> dict[str, Any]:
        """Return FITS WCS keywords for an array whose element ``[0, 0]`` is the tract pixel ``origin``."""
        return {
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CUNIT1": "deg",
            "CUNIT2": "deg",
            "CRVAL1": self.crval[0],
            "CRVAL2": self.crval[1],
            "CRPIX1": self.crpix[0] - origin.x + 1.0,
            "CRPIX2": self.crpix[1] - origin.y + 1.0,
            "CD1_1": self.cd[0],
            "CD1_2": self.cd[1],
            "CD2_1": self.cd[2],
            "CD2_2": self.cd[3],
            "RADESYS": "ICRS",
            **({"LONPOLE": 180.0} if self.crval[1] >= 90.0 else {}),  # where the default is 0
        }


def sky_matrices(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrices from pixels ``(x, y, 1)`` to vectors, of any length, towards their places on the sky.

    So the pixels of two projections are related by a matrix alone, exactly: ``inv(to) @ from``.

    Parameters
    ----------
    numbers
        ``(..., 8)`` as `TanProjection.numbers`; the result is ``(..., 3, 3)``.
    """
    ra, dec = np.radians(numbers[..., 0]), np.radians(numbers[..., 1])
    east = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)], axis=-1)
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], axis=-1)
    # (..., 3, 2): one pixel along x, and along y.
    steps = np.stack([east, north], axis=-1) @ np.radians(numbers[..., 4:]).reshape(*ra.shape, 2, 2)
    tangent = np.cross(east, north) - (steps @ numbers[..., 2:4, None])[..., 0]
    return np.concatenate([steps, tangent[..., None]], axis=-1)


def projection_from_corners(corners: NDArray[np.float64]) -> TanProjection:
    """Return the projection of a grid of one pixel, 0 to 1 on both axes, with these corners.

    x decreases towards the east. The homography is exact, since a gnomonic projection is projective.

    Parameters
    ----------
    corners
        ``(4, 3)`` unit vectors ``(x, y, z)`` in ICRS, in any order.
    """
    # Use the north of the tangent point, not of the middle: near a pole the two can differ by any angle.
    turned = _homography(_sorted_corners(corners, *_east_north(*_ra_dec(corners.mean(axis=0)))))
    ra, dec = _ra_dec(turned[2])
    east, north = _east_north(ra, dec)
    h = _homography(_sorted_corners(corners, east, north))
    # At the north pole the default LONPOLE (0) rotates a tract by 180 degrees compared to LONPOLE 180. lsst.skymap puts
    # the tangent point half a pixel before the middle of a tract, which shows which of the two was used.
    if dec == np.pi / 2 and (h[:2] @ h[2] > 0.5 - 1e-7).all():
        h = _homography(_sorted_corners(corners, -east, -north))
    tangent = np.cross(east, north)  # h[2], made exact at a pole
    crpix = h[:2] @ tangent / (h[2] @ tangent)
    forward = np.array([[h[k] @ east, h[k] @ north] for k in range(2)])  # tangent plane (radians) to (x, y)
    cd = np.degrees(np.linalg.inv(forward))
    return TanProjection(
        crval=(float(np.degrees(ra) % 360.0), float(np.degrees(dec))),
        crpix=(float(crpix[0]), float(crpix[1])),
        cd=(float(cd[0, 0]), float(cd[0, 1]), float(cd[1, 0]), float(cd[1, 1])),
    )


def _east_north(ra: float, dec: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the unit vectors ``(3,)`` towards east and north at a position in radians."""
    east = np.array([-np.sin(ra), np.cos(ra), 0.0])
    north = np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    return east, north


def _ra_dec(vector: NDArray[np.float64]) -> tuple[float, float]:
    """Return right ascension and declination of a vector, radians; RA is 0 at a pole, as in the skymaps."""
    x, y, z = vector / np.linalg.norm(vector)
    if np.hypot(x, y) < _AT_POLE:
        return 0.0, float(np.copysign(np.pi / 2, z))
    return float(np.arctan2(y, x)), float(np.arctan2(z, np.hypot(x, y)))


def _sorted_corners(
    corners: NDArray[np.float64], east: NDArray[np.float64], north: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the corners in the order ``(y, x)`` = (0, 0), (0, nx), (ny, nx), (ny, 0); x decreases towards the east."""
    from_middle = corners - corners.mean(axis=0)
    angle = np.arctan2(from_middle @ north, -(from_middle @ east))  # 0 towards increasing x
    return corners[np.argsort(angle)]  # (-135, -45, 45, 135) degrees


def _homography(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix ``(3, 3)`` that maps four ordered corners to (0, 0), (1, 0), (1, 1), (0, 1) in ``(x, y)``.

    Its last row, the denominator, is the tangent point, whichever corner is first.
    """
    x, y = np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0, 1.0])
    zero = np.zeros((4, 3))
    # h0.v - x h2.v = 0 and h1.v - y h2.v = 0: the null vector of an 8 x 9 matrix is the homography.
    system = np.vstack(
        [np.hstack([corners, zero, -x[:, None] * corners]), np.hstack([zero, corners, -y[:, None] * corners])]
    )
    h: NDArray[np.float64] = np.linalg.svd(system)[2][-1].reshape(3, 3)
    scale = np.linalg.norm(h[2])
    h /= scale if h[2] @ corners.mean(axis=0) > 0 else -scale
    return h
