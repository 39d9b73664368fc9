"""The batch as PyTorch sees it."""

from torch import Tensor

__all__ = ["TensorBatch"]

type TensorBatch = dict[str, Tensor | list[str]]
"""A batch of cutouts: arrays as tensors under the keys of README's table; ids of text are a list."""
