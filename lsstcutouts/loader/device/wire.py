"""Converts pixels to 16 bits for the copy to the device, and back to float32 there."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...transforms.batch import TensorBatch

__all__ = ["Wire", "packed", "unpacked"]

type Wire = Literal["float32", "bfloat16", "float16"]

_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

_PLANES = ("image", "variance", "ivar", "psf")
"""Arrays ``(N, B, Y, X)`` float32 that are converted."""

_SCALE = "lsstcutouts.scale."
"""Before a plane's name: key of the ``(B, 1, 1)`` factors that its values were divided by; no column is called so."""

_PART = 30_000
"""Elements that torch is given at once on the CPU.

Above 32768 it would start OpenMP threads of its own in each thread of the pool, which then fight for the cores.
"""


def packed(batch: TensorBatch, wire: Wire, *, pin: bool = False) -> TensorBatch:
    """Return a batch with float32 planes converted to 16 bits.

    With float16 (11 significant bits) each band is first divided by a power of two, so that its largest finite value in this
    batch, M, is below 2^15. The relative error of restored values is at most 2^-11 for values
    above 2^-28 M; below, the absolute error is at most 2^-39 M (plus 2^-149 for subnormal float32 numbers). With bfloat16
    (8 significant bits) the relative error is at most 2^-8 for normal float32 numbers. NaN, infinities and zeros do not
    change. Values above 3.38e38 can become infinite.

    Parameters
    ----------
    batch
        Tensors on the CPU; planes are ``(N, B, Y, X)``.
    wire
        ``"float32"`` does not change the batch.
    pin
        Whether the 16-bit planes are in page-locked memory.
    """
    if wire == "float32":
        return batch
    made = dict(batch)
    for name in _PLANES:
        plane = batch.get(name)
        if isinstance(plane, Tensor):
            scale = _scales(plane.numpy(), wire)
            half = torch.empty(plane.shape, dtype=_HALVES[wire], pin_memory=pin)
            _multiply(plane, 1.0 / scale, half)
            made[name], made[_SCALE + name] = half, scale
    return made


def unpacked(batch: TensorBatch, *, channels_last: bool = False) -> TensorBatch:
    """Return a batch from `packed` with float32 planes, on the same device.

    Parameters
    ----------
    batch
        Batch from `packed`, or a copy; planes are ``(N, B, Y, X)``.
    channels_last
        Whether ``image`` is laid out as ``(N, Y, X, B)`` in memory.
    """
    made: TensorBatch = {name: value for name, value in batch.items() if not name.startswith(_SCALE)}
    for name in _PLANES:
        plane, scale = batch.get(name), batch.get(_SCALE + name)
        layout = torch.channels_last if channels_last and name == "image" else torch.contiguous_format
        if isinstance(plane, Tensor) and (scale is not None or layout is torch.channels_last):
            made[name] = _restored(plane, scale if isinstance(scale, Tensor) else None, layout)
    return made


def _restored(plane: Tensor, scale: Tensor | None, layout: torch.memory_format) -> Tensor:
    """Return float32 values in a memory layout, multiplied by the scale of each band."""
    if plane.device.type != "cpu":
        whole = plane.to(torch.float32, memory_format=layout)
        return whole if scale is None else whole.mul_(scale)
    whole = torch.empty(plane.shape, dtype=torch.float32, memory_format=layout)
    _multiply(plane, torch.ones(1) if scale is None else scale, whole)
    return whole


def _scales(plane: NDArray[Any], wire: Wire) -> Tensor:
    """Return ``(B, 1, 1)`` powers of two that bring each band into the range of the type."""
    if wire == "bfloat16":  # it has the range of float32
        return torch.ones(plane.shape[1], 1, 1)
    _, exponent = np.frexp(_largest(plane))  # the largest lies below 2^exponent, and is to lie below 2^15
    return torch.from_numpy(np.ldexp(np.float32(1), np.maximum(exponent - 15, -126))).reshape(-1, 1, 1)


def _largest(plane: NDArray[Any]) -> NDArray[Any]:
    """Return the largest absolute finite value of each band ``(B,)``."""
    axes = (0, 2, 3)
    largest: NDArray[Any] = np.maximum(plane.max(axes, initial=0), -plane.min(axes, initial=0))
    if not np.isfinite(largest).all():
        largest = np.abs(plane).max(axes, initial=0, where=np.isfinite(plane))
    return largest


def _multiply(plane: Tensor, factor: Tensor, out: Tensor) -> None:
    """Write ``plane * factor`` to ``out`` in the calling thread, whatever their types."""
    for part in _parts(tuple(plane.shape)):
        torch.mul(plane[part], factor, out=out[part])


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice, slice]]:
    """Yield slices ``(targets, all bands, rows)`` of at most `_PART` elements, or of one row of one target."""
    count, bands, height, width = shape
    rows = min(height, max(1, _PART // max(1, bands * width)))
    targets = max(1, _PART // max(1, bands * rows * width))
    for first in range(0, count, targets):
        for top in range(0, height, max(1, rows)):
            yield slice(first, first + targets), slice(None), slice(top, top + rows)
