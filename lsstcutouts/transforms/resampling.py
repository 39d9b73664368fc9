"""Crops and interpolation of planes. `resampled` defines how each plane is interpolated."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from ..plan.read_options import check_choice
from .batch import TensorBatch

__all__ = [
    "KERNELS",
    "RotationSampler",
    "Sampler",
    "ScaleSampler",
    "ShiftSampler",
    "check_kernel",
    "gathered",
    "kernel_weights",
    "resampled",
    "window",
]

KERNELS = {"bilinear": 2, "cubic": 4, "quintic": 6}
"""Interpolation kernels, and the number of pixels that each uses along an axis."""

LEAST_WEIGHT = 1e-4
"""Smallest weight along an axis with which a pixel contributes its mask bits and validity.

After rotations by 90 degrees, weights that should be 0 are up to 1e-5.
"""

_INTERPOLATED = ("image", "variance", "ivar", "mask", "valid")


def check_kernel(kernel: str) -> str:
    """Return the name of a kernel; raise `~lsstcutouts.errors.ConfigurationError` if it is not one of `KERNELS`."""
    check_choice("kernel", kernel, tuple(KERNELS))
    return kernel


def gathered(plane: Tensor, index: Tensor, height: int, width: int) -> Tensor:
    """Return ``(N, B, height, width)`` pixels at flat indices ``(N, height * width)``, in the memory format of the plane."""
    count, bands = plane.shape[:2]
    if bands > 1 and plane.is_contiguous(memory_format=torch.channels_last):
        pixels = plane.permute(0, 2, 3, 1).flatten(1, 2)
        taken = pixels.gather(1, index.unsqueeze(2).expand(-1, -1, bands))
        return taken.reshape(count, height, width, bands).permute(0, 3, 1, 2)
    taken = plane.flatten(2).gather(2, index.unsqueeze(1).expand(-1, bands, -1))
    return taken.reshape(count, bands, height, width)


def window(plane: Tensor, start: Tensor, height: int, width: int) -> Tensor:
    """Return windows ``(N, B, height, width)`` that start at pixels ``(N, 2)`` as ``(y, x)``; 0 outside the plane."""
    index, inside = _indices(
        start[:, 0].reshape(-1, 1, 1) + torch.arange(height, device=start.device).reshape(-1, 1),
        start[:, 1].reshape(-1, 1, 1) + torch.arange(width, device=start.device),
        plane.shape[-2],
        plane.shape[-1],
    )
    # In place: masked_fill would lose the memory format.
    return gathered(plane, index, height, width).masked_fill_(~inside, 0)


def _indices(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return flat indices ``(N, h * w)``, clamped to the plane, and which pixels are inside it, ``(N, 1, h, w)``."""
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return index.flatten(1), inside.unsqueeze(1)


def kernel_weights(kernel: str, fraction: Tensor) -> Tensor:
    """Return weights ``(..., taps)`` of the pixels around a position; their sum is 1.

    Parameters
    ----------
    kernel
        One of `KERNELS`.
    fraction
        ``(...)`` position minus its floor, pixels. The first weight is that of the pixel ``floor - taps / 2 + 1``.
    """
    taps = KERNELS[kernel]
    return _kernel(kernel, fraction.unsqueeze(-1) - torch.arange(1 - taps // 2, taps // 2 + 1, device=fraction.device))


def _kernel(kernel: str, distance: Tensor) -> Tensor:
    """Return the kernel ``(...)`` at distances ``(...)`` in pixels.

    ``bilinear``; ``cubic``: cubic convolution with a = -1/2 (Keys 1981, IEEE Trans. ASSP 29, 1153); ``quintic``: exact
    for polynomials of degree 4 (Bernstein & Gruen 2014, PASP 126, 287). Lanczos is left out, as it moves centroids
    by up to 0.02 px.
    """
    at = distance.abs()
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
    """Interpolates planes at the positions of output pixels; pixels outside the plane are 0."""

    def weighted(self, plane: Tensor, power: int = 1) -> Tensor:
        """Return ``(N, B, h, w)``: sums of the plane times ``weights**power``."""

    def union(self, plane: Tensor) -> Tensor:
        """Return ``(N, B, h, w)``: bitwise or of the contributing pixels."""

    def outside(self, plane: Tensor) -> Tensor:
        """Return ``(N, 1, h, w)`` bool: output pixels to which a position outside the plane contributes."""


def resampled(batch: TensorBatch, sampler: Sampler) -> TensorBatch:
    """Return the planes of a batch ``(N, B, Y, X)`` interpolated at new pixels ``(N, B, h, w)``.

    ``image`` is the weighted sum. ``variance`` is the sum with squared weights, which is correct for noise that is
    independent between pixels. ``ivar`` is its inverse, and 0 if a contributing pixel has ``ivar`` 0. ``mask`` is the
    bitwise or, and ``valid`` the logical and, of the contributing pixels. Output pixels to which positions outside the
    plane contribute are 0 and not valid.
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
    """Interpolates windows that start at fractional pixels: first along y, then along x.

    Parameters
    ----------
    start
        ``(N, 2)`` position of the first output pixel, ``(y, x)``, pixels.
    height, width
        Pixels of the output.
    kernel
        One of `KERNELS`.
    """

    def __init__(self, start: Tensor, height: int, width: int, kernel: str) -> None:
        self._taps, self._height, self._width = KERNELS[kernel], height, width
        self._first = start.floor().to(torch.int64) + 1 - self._taps // 2
        self._weights = kernel_weights(kernel, start - start.floor())  # (N, 2, taps)

    def weighted(self, plane: Tensor, power: int = 1) -> Tensor:
        """Return sums of the plane times ``weights**power``; see `Sampler`."""
        total = self._window(plane)
        weights = self._weights**power
        for axis, size in ((0, self._height), (1, self._width)):
            parts = (total.narrow(2 + axis, k, size) * _per_target(weights[:, axis, k]) for k in range(self._taps))
            total = sum(parts, torch.zeros((), device=plane.device))
        return total

    def union(self, plane: Tensor) -> Tensor:
        """Return the bitwise or of the contributing pixels; see `Sampler`."""
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
        """Return output pixels to which positions outside the plane contribute; see `Sampler`."""
        return ~self._inside(plane)

    def _window(self, plane: Tensor) -> Tensor:
        return window(plane, self._first, self._height + self._taps - 1, self._width + self._taps - 1)

    def _inside(self, plane: Tensor) -> Tensor:
        rows, columns = (self._within(axis, plane.shape[2 + axis]) for axis in (0, 1))
        return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)

    def _within(self, axis: int, size: int) -> Tensor:
        """Return ``(N, h)`` bool: rows (axis 0) or columns whose contributing pixels are all inside the plane."""
        taps, count = torch.arange(self._taps, device=self._first.device), (self._height, self._width)[axis]
        at = self._first[:, axis].reshape(-1, 1, 1) + torch.arange(count, device=taps.device).reshape(-1, 1) + taps
        idle = self._weights[:, axis].abs() < LEAST_WEIGHT
        return (((at >= 0) & (at < size)) | idle.unsqueeze(1)).all(-1)


def _per_target(values: Tensor, bits: Tensor | None = None) -> Tensor:
    """Return ``(N,)`` values as ``(N, 1, 1, 1)``; if ``bits`` is an integer tensor, true becomes all bits set."""
    if bits is not None and bits.dtype != torch.bool:
        values = -values.to(bits.dtype)
    return values.reshape(-1, 1, 1, 1)


class RotationSampler:
    """Interpolates at ``source + rotation @ (output pixel - target)``: a rotation that moves ``source`` to ``target``.

    Parameters
    ----------
    angle
        ``(N,)`` radians, counter-clockwise with x to the right and y up.
    source, target
        ``(N, 2)`` centre of the rotation, ``(y, x)``, in input pixels and in output pixels.
    height, width
        Pixels of the output.
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
        """Return sums of the plane times ``weights**power``; see `Sampler`."""
        total: Tensor | None = None
        for index, inside, weight, _ in self._neighbours(plane):
            part = self._gathered(plane, index) * weight.pow(power).masked_fill_(~inside, 0)
            total = part if total is None else total + part
        return plane if total is None else total

    def union(self, plane: Tensor) -> Tensor:
        """Return the bitwise or of the contributing pixels; see `Sampler`."""
        total: Tensor | None = None
        for index, inside, _, contributes in self._neighbours(plane):
            part = self._gathered(plane, index).masked_fill_(~(inside & contributes), 0)
            total = part if total is None else total | part
        return plane if total is None else total

    def outside(self, plane: Tensor) -> Tensor:
        """Return output pixels to which positions outside the plane contribute; see `Sampler`."""
        total = torch.zeros((), dtype=torch.bool, device=plane.device)
        for _, inside, _, contributes in self._neighbours(plane):
            total = total | (~inside & contributes)
        return total

    def _gathered(self, plane: Tensor, index: Tensor) -> Tensor:
        return gathered(plane, index, self._height, self._width)

    def _neighbours(self, plane: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield flat index ``(N, h * w)``, inside, weight and contributes ``(N, 1, h, w)`` for each neighbour.

        They are computed again for each plane, as together they need more memory than the planes.
        """
        first = 1 - self._taps // 2
        for j in range(self._taps):
            for i in range(self._taps):
                index, inside = _indices(self._y + (first + j), self._x + (first + i), plane.shape[-2], plane.shape[-1])
                y, x = self._wy[..., j].unsqueeze(1), self._wx[..., i].unsqueeze(1)
                yield index, inside, y * x, (y.abs() >= LEAST_WEIGHT) & (x.abs() >= LEAST_WEIGHT)


def _whole_and_weights(at: Tensor, kernel: str) -> tuple[Tensor, Tensor]:
    """Return the floor of positions, and the weights ``(..., taps)`` of the pixels around them."""
    whole = at.floor()
    return whole.to(torch.int64), kernel_weights(kernel, at - whole)


class ScaleSampler:
    """Sums the flux in pixels of another size, about the middle of the plane.

    The flux up to each edge of a pixel is interpolated at the edges of the new pixels, along y and x in turn, and its
    differences are the flux between them. So the flux of a source is conserved exactly, a pixel that covers whole pixels is
    their sum, and larger pixels average (no aliasing). Beyond the plane its last pixels continue.

    Parameters
    ----------
    scale
        ``(1,)``, or ``(N,)`` for each target: size of an output pixel, in input pixels.
    old
        ``(height, width)`` of the planes.
    new
        ``(height, width)`` of the output.
    kernel
        One of `KERNELS`. ``bilinear`` spreads the flux of a pixel evenly over its area.
    """

    def __init__(self, scale: Tensor, old: tuple[int, int], new: tuple[int, int], kernel: str) -> None:
        parts = [_scaling_weights(scale, before, after, kernel) for before, after in zip(old, new, strict=True)]
        (self._rows, rows), (self._columns, columns) = parts  # (n, 1, h, Y) and (n, 1, w, X)
        self._outside = rows.unsqueeze(-1) | columns.unsqueeze(-2)  # (n, 1, h, w)

    def weighted(self, plane: Tensor, power: int = 1) -> Tensor:
        """Return sums of the plane times ``weights**power``; see `Sampler`."""
        return _product(self._rows**power, plane, self._columns**power)

    def union(self, plane: Tensor) -> Tensor:
        """Return the bitwise or of the contributing pixels; see `Sampler`."""
        if plane.dtype == torch.bool:
            rows, columns = (weights.abs() >= LEAST_WEIGHT for weights in (self._rows, self._columns))
            return _product(rows.float(), plane.float(), columns.float()) > 0.5
        total = torch.zeros((), dtype=plane.dtype, device=plane.device)
        for bit in range(8 * plane.element_size()):
            total = total | (self.union((plane >> bit & 1).bool()).to(plane.dtype) << bit)
        return total

    def outside(self, plane: Tensor) -> Tensor:
        """Return output pixels whose middle is outside the plane; see `Sampler`."""
        return self._outside.expand(len(plane), -1, -1, -1)


def _scaling_weights(scale: Tensor, old: int, new: int, kernel: str) -> tuple[Tensor, Tensor]:
    """Return weights ``(n, 1, new, old)`` along an axis, and which output pixels have their middle outside, ``(n, 1, new)``."""
    beyond = KERNELS[kernel] // 2
    scale = scale.reshape(-1, 1, 1).double()  # float32 would change the background by 1e-4
    middle = old / 2 + scale * (torch.arange(new, device=scale.device) - (new - 1) / 2)  # from the edge of the plane
    edges = old / 2 + scale * (torch.arange(new + 1, device=scale.device) - new / 2)
    known = torch.arange(-beyond, old + beyond + 1, device=scale.device)
    # The flux up to an edge is the sum over pixels before it: pixel i counts at the known edges i + 1 and later.
    counts = _kernel(kernel, edges.unsqueeze(-1) - known)[..., 1:].flip(-1).cumsum(-1).flip(-1)
    spread = counts.diff(dim=-2)
    weights = spread[..., beyond : beyond + old].clone()
    weights[..., 0] += spread[..., :beyond].sum(-1)
    weights[..., -1] += spread[..., beyond + old :].sum(-1)
    outside = (middle < 0) | (middle > old)
    return weights.masked_fill(outside.unsqueeze(-1), 0.0), outside


def _product(rows: Tensor, plane: Tensor, columns: Tensor) -> Tensor:
    # Automatic mixed precision would round the pixels to 8 or 11 bits.
    with torch.autocast(plane.device.type, enabled=False):
        return rows.to(plane.dtype) @ plane @ columns.to(plane.dtype).mT
