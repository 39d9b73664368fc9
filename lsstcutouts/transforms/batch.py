"""The type of a batch of tensors."""

from torch import Tensor

__all__ = ["TensorBatch"]

type TensorBatch = dict[str, Tensor | list[str]]
"""A batch of cutouts: tensors under the keys of the table in README; ids that are strings are a list."""
