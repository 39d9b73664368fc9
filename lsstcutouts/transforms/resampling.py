"""Pixels at other places: whole windows, and weighted sums of neighbours.

A weighted sum changes every plane in its own way: see `resampled`.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ConfigurationError
from .batch import TensorBatch

__all__ = ["KERNELS", "RotationSampler", "Sampler", "ShiftSampler", "check_kernel", "gathered", "resampled", "window"]

KERNELS = {"bilinear": 2, "cubic": 4, "quintic": 6}
"""Pixels a row and column that each kernel sums over."""

LEAST_WEIGHT = 1e-4
"""Least weight on each axis at which a pixel's mask bits and validity count: after turns by 90 degrees weights of nothing are 1e-5."""

_INTERPOLATED = ("image", "variance", "ivar", "mask", "valid")


def check_kernel(kernel: str) -> str:
    """Return the name of a kernel; `~lsstcutouts.errors.ConfigurationError` if it is none of `KERNELS`."""
    if kernel not in KERNELS:
        raise ConfigurationError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    return kernel


def gathered(plane: Tensor, index: Tensor, height: int, width: int) -> Tensor:
    """Return ``(N, B, height, width)`` of the plane's pixels ``(N, height * width)``, in the memory layout that came in."""
    count, bands = plane.shape[:2]
    if bands > 1 and plane.is_contiguous(memory_format=torch.channels_last):
        pixels = plane.permute(0, 2, 3, 1).reshape(count, -1, bands)
        taken = pixels.gather(1, index.unsqueeze(2).expand(-1, -1, bands))
        return taken.reshape(count, height, width, bands).permute(0, 3, 1, 2)
    taken = plane.reshape(count, bands, -1).gather(2, index.unsqueeze(1).expand(-1, bands, -1))
    return taken.reshape(count, bands, height, width)


def window(plane: Tensor, start: Tensor, height: int, width: int) -> Tensor:
    """Return ``(N, B, height, width)`` pixels from the first ones ``(N, 2)``, ``(y, x)``, on; 0 beyond the plane."""
    index, inside = _indices(
        start[:, 0].reshape(-1, 1, 1) + torch.arange(height, device=start.device).reshape(-1, 1),
        start[:, 1].reshape(-1, 1, 1) + torch.arange(width, device=start.device),
        plane.shape[-2],
        plane.shape[-1],
    )
    # In place: otherwise the memory layout would be lost.
    return gathered(plane, index, height, width).masked_fill_(~inside, 0)


def _indices(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the flat index of pixels, the nearest one for those beyond the plane, and which lie in it, ``(N, 1, h, w)``."""
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return index.flatten(1), inside.unsqueeze(1)


def _weights(kernel: str, fraction: Tensor) -> Tensor:
    """Return weights ``(..., taps)`` of the pixels around a place, whose sum is 1.

    Parameters
    ----------
    kernel
        Linear; cubic convolution with a = -1/2 (Keys 1981, IEEE Trans. ASSP 29, 1153); quintic, exact for polynomials of
        degree 4 (Bernstein & Gruen 2014, PASP 126, 287). Not Lanczos: it moves centroids by up to 0.02 px.
    fraction
        How far the place lies beyond the whole pixel before it. The first of the taps is ``taps / 2 - 1`` before that.
    """
    taps = KERNELS[kernel]
    at = (fraction.unsqueeze(-1) - torch.arange(1 - taps // 2, taps // 2 + 1, device=fraction.device)).abs()
    if kernel == "bilinear":
        return (1 - at).clamp(min=0)
    if kernel == "cubic":
        near, far = (1.5 * at - 2.5) * at * at + 1, ((2.5 - 0.5 * at) * at - 4) * at + 2
        return torch.where(at <= 1, near, torch.where(at < 2, far, 0.0))
    near = 1 + at**3 * (-95 / 12 + at * (23 / 2 - at * 55 / 12))
    far = (at - 1) * (at - 2) * (-23 / 4 + at * (29 / 2 + at * (-83 / 8 + at * 55 / 24)))
    last = (at - 2) * (at - 3) ** 2 * (-9 / 4 + at * (25 / 12 - at * 11 / 24))
    return torch.where(at <= 1, near, torch.where(at <= 2, far, torch.where(at < 3, last, 0.0)))


class Sampler(Protocol):
    """Sums over neighbours at the places of new pixels; beyond the plane all is 0."""

    def weighted(self, plane: Tensor, power: int = 1) -> Tensor:
        """Return the sums ``(N, B, h, w)`` of a plane times its weights to a power."""

    def union(self, plane: Tensor) -> Tensor:
        """Return the bits ``(N, B, h, w)`` that any contributing pixel has."""

    def outside(self, plane: Tensor) -> Tensor:
        """Return which new pixels ``(N, 1, h, w)`` a place beyond the plane contributes to."""


def resampled(batch: TensorBatch, sampler: Sampler) -> TensorBatch:
    """Return the planes of a batch at new pixels.

    ``image`` is a weighted sum. ``variance`` is the sum with squared weights, right for noise that is independent from
    pixel to pixel; ``ivar`` its inverse, 0 where a contributing pixel has none. ``mask`` has the bits of any contributing
    pixel, ``valid`` is whether all are. A pixel that a place beyond the plane contributes to is 0 and not valid.
    """
    planes = {name: v for name in _INTERPOLATED if isinstance(v := batch.get(name), Tensor)}
    changed = {name: _resampled_plane(name, plane, sampler) for name, plane in planes.items()}
    beyond = {plane.shape[-2:]: sampler.outside(plane) for plane in planes.values()}
    return {name: v.masked_fill_(beyond[planes[name].shape[-2:]], 0) for name, v in changed.items()}


def _resampled_plane(name: str, plane: Tensor, sampler: Sampler) -> Tensor:
    if name == "mask":
        return sampler.union(plane)
    if name == "valid":
        return ~sampler.union(~plane)
    if name == "ivar":
        nothing = ~(plane > 0)
        variance = sampler.weighted(torch.where(nothing, 0.0, 1 / plane), 2)
        return (1 / variance).masked_fill_(sampler.union(nothing), 0)
    return sampler.weighted(plane, 2 if name == "variance" else 1)


class ShiftSampler:
    """Samples windows that begin between pixels: a sum over rows, then over columns.

    Parameters
    ----------
    start
        ``(N, 2)`` place of the first new pixel, ``(y, x)``.
    height, width
        Pixels of a window.
    kernel
        One of `KERNELS`.
    """

    def __init__(self, start: Tensor, height: int, width: int, kernel: str) -> None:
        self._taps, self._height, self._width = KERNELS[kernel], height, width
        self._first = start.floor().to(torch.int64) + 1 - self._taps // 2
        self._weights = _weights(kernel, start - start.floor())  # (N, 2, taps)

    def weighted(self, plane: Tensor, power: int = 1) -> Tensor:
        """Return the sums of a plane times its weights to a power, as `Sampler` says."""
        total = self._window(plane)
        weights = self._weights**power
        for axis, size in ((0, self._height), (1, self._width)):
            parts = (total.narrow(2 + axis, k, size) * _per_target(weights[:, axis, k]) for k in range(self._taps))
            total = sum(parts, torch.zeros((), device=plane.device))
        return total

    def union(self, plane: Tensor) -> Tensor:
        """Return the bits that any contributing pixel has, as `Sampler` says."""
        total = self._window(plane)
        contributes = self._weights.abs() >= LEAST_WEIGHT
        for axis, size in ((0, self._height), (1, self._width)):
            parts = [
                total.narrow(2 + axis, k, size) & _per_target(contributes[:, axis, k], total) for k in range(self._taps)
            ]
            total = parts[0]
            for part in parts[1:]:
                total = total | part
        return total

    def outside(self, plane: Tensor) -> Tensor:
        """Return which new pixels a place beyond the plane contributes to."""
        return ~self._inside(plane)

    def _window(self, plane: Tensor) -> Tensor:
        return window(plane, self._first, self._height + self._taps - 1, self._width + self._taps - 1)

    def _inside(self, plane: Tensor) -> Tensor:
        rows, columns = (self._within(axis, plane.shape[2 + axis]) for axis in (0, 1))
        return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)

    def _within(self, axis: int, size: int) -> Tensor:
        """Return which rows (axis 0) or columns ``(N, h)`` have all contributing pixels in the plane."""
        taps, count = torch.arange(self._taps, device=self._first.device), (self._height, self._width)[axis]
        at = self._first[:, axis].reshape(-1, 1, 1) + torch.arange(count, device=taps.device).reshape(-1, 1) + taps
        idle = self._weights[:, axis].abs() < LEAST_WEIGHT
        return (((at >= 0) & (at < size)) | idle.unsqueeze(1)).all(-1)


def _per_target(values: Tensor, bits: Tensor | None = None) -> Tensor:
    """Return ``(N,)`` values as ``(N, 1, 1, 1)``; with ``bits``, truth as all bits or none of that type."""
    if bits is not None and bits.dtype != torch.bool:
        values = -values.to(bits.dtype)
    return values.reshape(-1, 1, 1, 1)


class RotationSampler:
    """Samples pixels at ``source + turn @ (new pixel - target)``: turned about a place that goes from one to another.

    Parameters
    ----------
    angle
        ``(N,)`` radians, counter-clockwise as seen with x to the right and y upwards.
    source, target
        ``(N, 2)`` the place, ``(y, x)``, in the old pixels and in the new ones.
    height, width
        New pixels.
    kernel
        One of `KERNELS`.
    """

    def __init__(self, angle: Tensor, source: Tensor, target: Tensor, height: int, width: int, kernel: str) -> None:
        cosine, sine = (v.reshape(-1, 1, 1) for v in (angle.cos(), angle.sin()))
        y = torch.arange(height, device=angle.device).reshape(-1, 1) - target[:, 0].reshape(-1, 1, 1)
        x = torch.arange(width, device=angle.device) - target[:, 1].reshape(-1, 1, 1)
        self._taps, self._height, self._width = KERNELS[kernel], height, width
        self._y, self._wy = _whole_and_weights(source[:, 0].reshape(-1, 1, 1) + cosine * y - sine * x, kernel)
        self._x, self._wx = _whole_and_weights(source[:, 1].reshape(-1, 1, 1) + cosine * x + sine * y, kernel)

    def weighted(self, plane: Tensor, power: int = 1) -> Tensor:
        """Return the sums of a plane times its weights to a power, as `Sampler` says."""
        total: Tensor | None = None
        for index, inside, weight, _ in self._neighbours(plane):
            part = self._gathered(plane, index) * weight.pow(power).masked_fill_(~inside, 0)
            total = part if total is None else total + part
        return plane if total is None else total

    def union(self, plane: Tensor) -> Tensor:
        """Return the bits that any contributing pixel has, as `Sampler` says."""
        total: Tensor | None = None
        for index, inside, _, contributes in self._neighbours(plane):
            part = self._gathered(plane, index).masked_fill_(~(inside & contributes), 0)
            total = part if total is None else total | part
        return plane if total is None else total

    def outside(self, plane: Tensor) -> Tensor:
        """Return which new pixels a place beyond the plane contributes to."""
        total = torch.zeros((), dtype=torch.bool, device=plane.device)
        for _, inside, _, contributes in self._neighbours(plane):
            total = total | (~inside & contributes)
        return total

    def _gathered(self, plane: Tensor, index: Tensor) -> Tensor:
        return gathered(plane, index, self._height, self._width)

    def _neighbours(self, plane: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield index ``(N, h * w)``, and ``(N, 1, h, w)`` inside or not, weight and contributes or not, of each neighbour.

        They are made anew for each plane: kept, they would be larger than the planes.
        """
        first = 1 - self._taps // 2
        for j in range(self._taps):
            for i in range(self._taps):
                index, inside = _indices(self._y + (first + j), self._x + (first + i), plane.shape[-2], plane.shape[-1])
                y, x = self._wy[..., j].unsqueeze(1), self._wx[..., i].unsqueeze(1)
                yield index, inside, y * x, (y.abs() >= LEAST_WEIGHT) & (x.abs() >= LEAST_WEIGHT)


def _whole_and_weights(at: Tensor, kernel: str) -> tuple[Tensor, Tensor]:
    """Return whole pixels before places, and weights around them."""
    whole = at.floor()
    return whole.to(torch.int64), _weights(kernel, at - whole)
