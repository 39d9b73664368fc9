"""Arrays as tensors, in page-locked memory where a GPU is to fetch them."""

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
    """Return an array in page-locked memory, whatever it holds; it comes from torch's caching allocator.

    The memory is used again when the array and every tensor of it are gone and copies from it are over. The
    allocator rounds sizes up to powers of two.
    """
    of_torch = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=of_torch, pin_memory=True).numpy()


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor of the same memory where it is contiguous.

    An array that was made of a whole tensor gives that tensor back: its allocator knows its memory, and so keeps it
    until copies to the device are over.
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
