"""Converts arrays to tensors, in page-locked memory for copies to a GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...transforms.batch import TensorBatch
from .wire import Wire, packed, unpacked

__all__ = ["Form", "as_tensor", "pinned_empty"]


def pinned_empty(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return an uninitialised array of this shape in page-locked memory, from torch's caching allocator.

    The memory is reused when the array and all tensors of it are deleted and all copies from it have finished. The
    allocator rounds sizes up to powers of two.
    """
    of_torch = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=of_torch, pin_memory=True).numpy()


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor of the same shape, which shares its memory if it is contiguous.

    For an array that was made from a whole tensor this is that tensor: its allocator then keeps the memory until copies
    to the device have finished.
    """
    base = array.base
    if (
        isinstance(base, Tensor)
        and base.shape == array.shape
        and base.data_ptr() == array.ctypes.data
        and base.is_contiguous()
        and array.flags.c_contiguous
    ):
        return base
    return torch.from_numpy(np.ascontiguousarray(array))


def _pinned(tensor: Tensor) -> Tensor:
    """Return a tensor in page-locked memory; the tensor itself if it is there already."""
    if tensor.is_pinned():
        return tensor
    made = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    # numpy copies in the calling thread; torch would start threads of its own.
    np.copyto(made.numpy(), tensor.numpy())
    return made


@dataclass(frozen=True, slots=True)
class Form:
    """How batches leave the pool of threads.

    Attributes
    ----------
    pinned
        Whether they are in page-locked memory.
    wire
        Type in which pixels travel.
    channels_last
        Whether ``image`` is laid out as ``(N, Y, X, B)`` in memory.
    on_device
        Whether the last two are applied on the device: then the batch leaves the pool `packed`.
    """

    pinned: bool = False
    wire: Wire = "float32"
    channels_last: bool = False
    on_device: bool = False

    def tensors(self, arrays: Mapping[str, NDArray[Any] | list[str]]) -> TensorBatch:
        """Return a batch of arrays as tensors; lists stay lists."""
        made: TensorBatch = {name: v if isinstance(v, list) else as_tensor(v) for name, v in arrays.items()}
        made = packed(made, self.wire, pin=self.pinned)
        if not self.on_device:
            made = unpacked(made, channels_last=self.channels_last)
        if not self.pinned:
            return made
        return {name: v if isinstance(v, list) else _in_layout(v) for name, v in made.items()}


def _in_layout(tensor: Tensor) -> Tensor:
    """Return a tensor in page-locked memory, laid out as it is."""
    if tensor.is_contiguous():
        return _pinned(tensor)
    return _pinned(tensor.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
