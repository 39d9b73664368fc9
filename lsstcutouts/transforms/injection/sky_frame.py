"""Directions and distances on the sky around a pixel, from the WCS of a batch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SkyFrame", "turned"]


@dataclass(frozen=True)
class SkyFrame:
    """Linear relation between offsets in pixels and on the sky around one position of each target.

    Attributes
    ----------
    to_sky
        ``(N, 2, 2)`` arcsec per pixel: rows are east and north, columns x and y.
    to_pixels
        ``(N, 2, 2)`` the inverse, pixels per arcsec: rows are x and y, columns east and north.
    position
        ``(N, 2)`` right ascension and declination of the position, degrees ICRS.
    """

    to_sky: Tensor
    to_pixels: Tensor
    position: Tensor

    @classmethod
    def at(cls, wcs: Tensor, pixel: Tensor) -> "SkyFrame":
        """Return the frame at pixels ``(N, 2)`` as ``(y, x)``, for ``wcs`` ``(N, 8)`` of tangential (TAN) projections.

        Formulae: Calabretta & Greisen 2002, A&A 395, 1077; north and east are those at the pixel, not at ``crval``.
        """
        wcs = wcs.to(torch.float64)
        ra0, dec0 = torch.deg2rad(wcs[:, 0]), torch.deg2rad(wcs[:, 1])
        cd = torch.deg2rad(wcs[:, 4:].reshape(-1, 2, 2))
        xi, eta = (cd * (pixel.flip(1) - wcs[:, 2:4]).unsqueeze(1)).sum(2).unbind(1)
        one, zero = torch.ones_like(xi), torch.zeros_like(xi)
        # Unit vectors in the axes east, north and outwards at crval.
        direction = _unit(torch.stack([xi, eta, one], dim=1))
        pole = torch.stack([zero, dec0.cos(), dec0.sin()], dim=1)
        east = _unit(torch.linalg.cross(pole, direction))
        axes = torch.stack([east, torch.linalg.cross(direction, east)], dim=2)  # (N, 3, 2): columns east and north
        out = direction[:, 2:, None]
        per_radian = (axes[:, :2] * out - direction[:, :2, None] * axes[:, 2:]) / out**2  # of (xi, eta)
        to_pixels = _product(_inverse(cd), per_radian) * (math.pi / 180 / 3600)
        ra = ra0 + torch.atan2(xi, dec0.cos() - eta * dec0.sin())
        dec = (direction * pole).sum(1).clamp(-1, 1).asin()
        position = torch.stack([torch.rad2deg(ra) % 360, torch.rad2deg(dec)], dim=1)
        return cls(_inverse(to_pixels), to_pixels, position)

    def rows(self, chosen: Tensor | slice) -> "SkyFrame":
        """Return the frame of some targets."""
        return SkyFrame(self.to_sky[chosen], self.to_pixels[chosen], self.position[chosen])

    def along(self, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(N, 2)`` ``(x, y)`` pixels per arcsec along position angles ``(N,)``, degrees, and across them.

        Position angles go from north through east.
        """
        sine, cosine = torch.deg2rad(angle).sin(), torch.deg2rad(angle).cos()
        axes = torch.stack([torch.stack([sine, -cosine], dim=1), torch.stack([cosine, sine], dim=1)], dim=1)
        pixels = _product(self.to_pixels, axes.to(torch.float64))
        return pixels[:, :, 0], pixels[:, :, 1]

    def grid(self, reach: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return positions along x and along y, ``(N, count)`` pixels, of a grid that holds a circle of ``(N,)`` arcsec."""
        half = torch.linalg.vector_norm(self.to_pixels, dim=2).to(torch.float32) * reach.unsqueeze(1)
        steps = (torch.arange(count, device=half.device) + 0.5) * (2 / count) - 1
        return half[:, :1] * steps, half[:, 1:] * steps

    def on_sky(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return offsets to the east and to the north, ``(N, y, x)`` arcsec, at the points of a `grid`."""
        matrix = self.to_sky.to(torch.float32)
        east, north = (
            matrix[:, i, :1, None] * x.unsqueeze(1) + matrix[:, i, 1:, None] * y.unsqueeze(2) for i in (0, 1)
        )
        return east, north


def turned(angle: Tensor, east: Tensor, north: Tensor) -> tuple[Tensor, Tensor]:
    """Return offsets ``(N, y, x)`` along position angles ``(N,)``, degrees from north through east, and across them."""
    radians = torch.deg2rad(angle).reshape(-1, 1, 1)
    sine, cosine = radians.sin(), radians.cos()
    return east * sine + north * cosine, north * sine - east * cosine


def _unit(vector: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vector, dim=1, keepdim=True)
    return vector / length.clamp(min=1e-30)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return products of 2 x 2 matrices, by elements: matrix kernels of GPUs may round to 10 bits."""
    return (left.unsqueeze(3) * right.unsqueeze(1)).sum(2)


def _inverse(matrix: Tensor) -> Tensor:
    (a, b), (c, d) = (row.unbind(1) for row in matrix.unbind(1))
    adjugate: Tensor = torch.stack([torch.stack([d, -b], dim=1), torch.stack([-c, a], dim=1)], dim=1)
    return adjugate / (a * d - b * c).reshape(-1, 1, 1)
