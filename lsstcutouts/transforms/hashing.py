"""Counter-based random numbers: a hash of target, seed and epoch, the same on every device.

The numbers of a generator would depend on how targets are batched. A hash has no state and works with torch.compile.
"""

import math
import zlib

import torch
from torch import Tensor

__all__ = ["random_integers", "random_keys", "random_normal", "random_uniform", "stream_of"]


def stream_of(name: str) -> int:
    """Return the stream number of a user of random numbers from its name."""
    return zlib.crc32(name.encode())


def random_keys(
    ids: Tensor, seed: int, epoch: int | Tensor, *, stream: int = 0, repeat: Tensor | None = None
) -> Tensor:
    """Return ``(N,)`` int64 keys: a hash of each id with seed, epoch, stream and repeat, the same on every device.

    SplitMix64 (Steele, Lea & Flood 2014, OOPSLA), in wrapping 64-bit arithmetic.

    Parameters
    ----------
    ids
        ``(N,)`` integer ids of the targets, or their ``object_hash``.
    seed, epoch
        Different values give independent keys.
    stream
        From `stream_of`; different streams of one seed are independent.
    repeat
        ``(N,)`` how often the target occurred before in this epoch; None is the same as 0.
    """
    of_epoch = torch.as_tensor(epoch, dtype=torch.int64, device=ids.device) * _wrapped(0xD1B54A32D192ED03)
    start = 0x9E3779B97F4A7C15 * (1 + seed) + 0xD1B54A32D192ED03 + 0xA0761D6478BD642F * stream
    # int64, as torch has few uint64 operations; the bits are the same.
    state = (ids.view(torch.int64) if ids.dtype == torch.uint64 else ids.to(torch.int64)) + _wrapped(start) + of_epoch
    if repeat is not None:
        state = state + repeat.to(torch.int64) * _wrapped(0x8CB92BA72F3D8DD7)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ _logical_shift(state, shift)) * _wrapped(factor)
    return state ^ _logical_shift(state, 31)


def random_integers(
    ids: Tensor, seed: int, epoch: int | Tensor, high: int, *, stream: int = 0, repeat: Tensor | None = None
) -> Tensor:
    """Return ``(N,)`` uniform int64 numbers in ``[0, high)``; the other arguments are those of `random_keys`."""
    return _logical_shift(random_keys(ids, seed, epoch, stream=stream, repeat=repeat), 33) % high


def random_uniform(keys: Tensor, *shape: int) -> Tensor:
    """Return ``(N, *shape)`` uniform float32 numbers in ``[0, 1)`` from the ``(N,)`` keys of `random_keys`."""
    return (_bits(keys, math.prod(shape)) * 2.0**-24).reshape(-1, *shape)


def random_normal(keys: Tensor, *shape: int) -> Tensor:
    """Return ``(N, *shape)`` standard normal float32 numbers, at most 5.9, from the ``(N,)`` keys of `random_keys`.

    Box & Muller 1958 (Ann. Math. Stat. 29, 610): two numbers from two hashes.
    """
    count = math.prod(shape)
    half = (count + 1) // 2
    bits = _bits(keys, 2 * half)
    # Plus half a step: log(0) cannot occur.
    radius = bits[:, :half].add(0.5).mul_(2.0**-24).log_().mul_(-2.0).sqrt_()
    angle = bits[:, half:].mul(2 * math.pi * 2.0**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].reshape(-1, *shape)


def _bits(keys: Tensor, count: int) -> Tensor:
    """Return ``(N, count)`` float32 numbers that are integers below ``2**24``.

    Each key defines a permutation of the 32-bit integers: a scrambled counter, xor with one half of the key, times the
    other half (made odd), scrambled again. 32 bits, as CPUs have no SIMD multiplication of 64-bit integers.
    """
    counter = _scrambled(torch.arange(count, dtype=torch.int32, device=keys.device))
    low = ((keys & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000  # the same bits, signed
    low, high = low.to(torch.int32).unsqueeze(1), (keys >> 32).to(torch.int32).unsqueeze(1)
    return _scrambled((counter ^ low).mul_(high | 1)).bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).to(torch.float32)


def _scrambled(bits: Tensor) -> Tensor:
    """Return int32 numbers permuted: ``lowbias32`` of Ellis 2018 (nullprogram.com/blog/2018/07/31); overwrites."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << (32 - shift)) - 1))
        bits.mul_(factor - (1 << 32) if factor >= 1 << 31 else factor)
    return bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF))


def _wrapped(value: int) -> int:
    """Return the signed 64-bit integer with the same low bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _logical_shift(value: Tensor, by: int) -> Tensor:
    return (value >> by) & ((1 << (64 - by)) - 1)
