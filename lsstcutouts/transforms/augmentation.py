"""What augmentations share: an epoch, and choices that repeat."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .batch import TensorBatch
from .hashing import random_keys, stream_of

__all__ = ["Augmentation", "add_per_axis", "checked_number", "checked_size", "required_tensor"]


class Augmentation(nn.Module):
    """A module that changes each target by choices of its own.

    They are a hash of the seed, the name of the class, the epoch, ``object_id`` (of ``object_hash`` where ids are texts)
    and, where the batch has it, ``repeat`` (how often the target was drawn before in this epoch). A resumed run repeats them, whatever the order, the batch, the
    world size, the workers and the device. Two modules of one class need different seeds, or they choose alike.

    Parameters
    ----------
    seed
        Chooses among series of choices.
    """

    epoch: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigurationError(f"seed must be a whole number, got {seed!r}")
        self.seed = seed
        self._stream = stream_of(type(self).__name__)
        # A tensor, since a compiled module would be compiled anew for each new number.
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64), persistent=False)

    def set_epoch(self, epoch: int) -> None:
        """Use the choices of another epoch."""
        self.epoch.fill_(epoch)

    def keys(self, batch: TensorBatch, part: int = 0) -> Tensor:
        """Return ``(N,)`` keys of random numbers, other ones for each part of the choices."""
        repeat = batch.get("repeat")
        return random_keys(
            self.required(batch, "object_hash" if "object_hash" in batch else "object_id"),
            self.seed,
            self.epoch,
            stream=self._stream + part,
            repeat=repeat if isinstance(repeat, Tensor) else None,
        )

    def required(self, batch: TensorBatch, name: str) -> Tensor:
        """Return a tensor of the batch; `~lsstcutouts.errors.ConfigurationError` where it is not there."""
        return required_tensor(batch, name, type(self).__name__)


def required_tensor(batch: TensorBatch, name: str, by: str) -> Tensor:
    """Return a tensor of the batch; `~lsstcutouts.errors.ConfigurationError` where it is not there."""
    value = batch.get(name)
    if not isinstance(value, Tensor):
        raise ConfigurationError(f"{by} needs {name!r}, and the batch has none; if it is a plane, add it to planes")
    return value


def checked_number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """Return a finite number between two others; otherwise `~lsstcutouts.errors.ConfigurationError`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise ConfigurationError(f"{name} must be a number of at least {low:g}{upper}, got {value!r}")
    return float(value)


def checked_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Return ``(height, width)``; `~lsstcutouts.errors.ConfigurationError` if they are no whole pixels."""
    if size is None:
        return None
    pair = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size, size]
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
        raise ConfigurationError(f"size must be pixels or (height, width), got {size!r}")
    return pair[0], pair[1]


def add_per_axis(positions: Tensor, by: Sequence[float]) -> Tensor:
    """Return ``(N, 2)`` positions plus a number for each axis, which stays out of device memory: a copy would be waited for."""
    return torch.stack([positions[:, 0] + by[0], positions[:, 1] + by[1]], dim=1)
