"""Random choices that are a hash of what they are for, equal on every device."""

import torch
from torch import Tensor

__all__ = ["random_integers"]


def random_integers(ids: Tensor, seed: int, epoch: int | Tensor, high: int) -> Tensor:
    """Return ``(N,)`` integers in ``[0, high)``, a hash of each id with seed and epoch, equal on every device.

    SplitMix64 (Steele, Lea & Flood 2014, OOPSLA), in wrapping 64-bit arithmetic.
    """
    of_epoch = torch.as_tensor(epoch, dtype=torch.int64, device=ids.device) * _wrapped(0xD1B54A32D192ED03)
    state = ids.to(torch.int64) + _wrapped(0x9E3779B97F4A7C15 * (1 + seed) + 0xD1B54A32D192ED03) + of_epoch
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ _logical_shift(state, shift)) * _wrapped(factor)
    state = state ^ _logical_shift(state, 31)
    return _logical_shift(state, 33) % high


def _wrapped(value: int) -> int:
    """Return the signed 64-bit integer with the same low bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _logical_shift(value: Tensor, by: int) -> Tensor:
    return (value >> by) & ((1 << (64 - by)) - 1)
