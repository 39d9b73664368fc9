"""The base class of the augmentations: reproducible random choices for each target and epoch."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigurationError
from .batch import TensorBatch
from .compose import Compose
from .hashing import random_keys, stream_of

__all__ = [
    "STAGES",
    "Augmentation",
    "add_per_axis",
    "check_stages",
    "checked_number",
    "checked_size",
    "checked_switch",
    "is_number",
    "required_tensor",
    "runs_always",
    "runs_in",
]

STAGES: Final = ("train", "val", "test")
"""Where augmentations may run. A prediction never changes what it is about."""


class Augmentation(nn.Module):
    """Base class of modules that change each target at random.

    The random numbers are a hash of the seed, the class name, the epoch, ``object_id`` (``object_hash`` if ids are
    strings or repeat) and, if the batch has it, ``repeat`` (how often the target occurred before in this epoch). So they do not
    depend on the order, the batch size, the world size, the workers or the device, and a resumed run gets the same
    numbers. Give two modules of the same class different seeds; otherwise both make the same choices.

    Parameters
    ----------
    seed
        Seed of the random numbers.

    Attributes
    ----------
    stages
        Where a data module runs it, some of ``"train"``, ``"val"`` and ``"test"``; in validation and test with the random
        numbers of epoch 0, so that scores of two epochs are of the same images.
    """

    epoch: Tensor

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.stages: tuple[str, ...] = ("train",)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigurationError(f"seed must be an integer, got {seed!r}")
        self.seed = seed
        self._stream = stream_of(type(self).__name__)
        # A tensor: torch.compile would compile the module again for each new Python number.
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64), persistent=False)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which selects the random numbers."""
        self.epoch.fill_(epoch)

    def keys(self, batch: TensorBatch, part: int = 0) -> Tensor:
        """Return ``(N,)`` int64 keys of random numbers; use another ``part`` for each independent choice."""
        repeat = batch.get("repeat")
        return random_keys(
            self.required(batch, "object_hash" if "object_hash" in batch else "object_id"),
            self.seed,
            self.epoch,
            stream=self._stream + part,
            repeat=repeat if isinstance(repeat, Tensor) else None,
        )

    def required(self, batch: TensorBatch, name: str) -> Tensor:
        """Return a tensor of the batch, ``(N, ...)``; raise `~lsstcutouts.errors.ConfigurationError` if it is missing."""
        return required_tensor(batch, name, type(self).__name__)


def runs_in(stage: str, augmentations: nn.Module) -> list[nn.Module]:
    """Return the modules of a composition of augmentations that run in a stage; modules without ``stages`` run in training.

    Parameters
    ----------
    stage
        One of `STAGES`.
    augmentations
        A module, a `~lsstcutouts.transforms.Compose` or a `torch.nn.Sequential`, at any depth.
    """
    return [one for one in _parts(augmentations) if stage in _stages(one)]


def runs_always(augmentations: nn.Module) -> list[nn.Module]:
    """Return the modules of a composition of augmentations that run in every stage: what a network sees depends on them."""
    stages = [runs_in(stage, augmentations) for stage in (*STAGES, "predict")]
    return [one for one in stages[0] if all(one in others for others in stages[1:])]


def check_stages(augmentations: nn.Module) -> None:
    """Refuse modules inside another one, such as `~lsstcutouts.transforms.Views`, that does not run in all their stages.

    Raises
    ------
    ConfigurationError
        With both names: in validation or prediction the inner module would not run.
    """
    for outer in _parts(augmentations):
        for inner in (one for one in outer.modules() if hasattr(one, "stages")):
            if left_out := [stage for stage in _stages(inner) if stage not in _stages(outer)]:
                name, around = type(inner).__name__, type(outer).__name__
                raise ConfigurationError(
                    f"augmentations: {name} is to run in {', '.join(_stages(inner))}, but {around} around it runs only in "
                    f"{', '.join(_stages(outer)) or 'no stage'}, so {name} would not run in {', '.join(left_out)}; put {name} before {around}, as "
                    f"in Compose([{name}(...), {around}(...)]), or limit its stages if it takes stages="
                )


def _parts(augmentations: nn.Module) -> list[nn.Module]:
    """Return the modules of a composition, of which each runs as a whole or not at all."""
    if type(augmentations) in {Compose, nn.Sequential}:
        return [one for part in augmentations.children() for one in _parts(part)]
    return [augmentations]


def _stages(module: nn.Module) -> tuple[str, ...]:
    stages = getattr(module, "stages", None)  # a network may have modules of this name
    return tuple(stages) if isinstance(stages, tuple | list) else ("train",)


def required_tensor(batch: TensorBatch, name: str, by: str) -> Tensor:
    """Return a tensor of the batch, ``(N, ...)``; raise `~lsstcutouts.errors.ConfigurationError` if it is missing."""
    value = batch.get(name)
    if not isinstance(value, Tensor):
        raise ConfigurationError(f"{by} needs {name!r}, but the batch has none; if it is a plane, add it to planes")
    return value


def is_number(value: Any) -> bool:
    """Return whether a value is a number of Python or NumPy; a bool is none."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def checked_number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """Return the value as a float; raise `~lsstcutouts.errors.ConfigurationError` unless ``low <= value <= high``."""
    if not is_number(value) or not math.isfinite(value) or not low <= value <= high:
        upper = f" and at most {high:g}" if math.isfinite(high) else ""
        raise ConfigurationError(f"{name} must be a number of at least {low:g}{upper}, got {value!r}")
    return float(value)


def checked_switch(name: str, value: Any) -> bool:
    """Return the value; raise `~lsstcutouts.errors.ConfigurationError` unless it is a bool: the text "false" would count as true."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be true or false, got {value!r}")
    return value


def checked_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Return ``(height, width)`` in pixels; raise `~lsstcutouts.errors.ConfigurationError` unless they are integers >= 1."""
    if size is None:
        return None
    pair = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size, size]
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
        raise ConfigurationError(f"size must be a number of pixels >= 1 or (height, width), got {size!r}")
    return pair[0], pair[1]


def add_per_axis(positions: Tensor, by: Sequence[float]) -> Tensor:
    """Return ``(N, 2)`` positions ``(y, x)`` plus one number per axis.

    The two numbers are not copied to the device: the copy would make the CPU wait for the GPU.
    """
    return torch.stack([positions[:, 0] + by[0], positions[:, 1] + by[1]], dim=1)
