"""Rice decoding, dither and scale of whole tiles in one pass, two tiles in turn.

The algorithm is that of the FITS standard 4.0, section 10.4.1 (Rice, Yeh & Miller 1993, AIAA 93-4541). Each code of a
stream starts where the one before it ends, so that a processor waits for one stream most of the time; two that take turns
(two lanes) fill each other's waits. A lane reads windows of 55 bits, each with a marker bit below: its place after some
codes tells how many bits they took, and a window that is zero was too short for its codes. Then the block is decoded again,
code by code.
"""

import numpy as np
from numba import int8, int32, int64, uint32, uint64

from .compiled import compiled, floats, inlined, leading_zeros, load_big_endian, store, trailing_zeros
from .scaling import eight_pixels, eight_plain_pixels

__all__ = ["decode_rice"]

_RAW = 25
"""Number of split bits that says that a block of 32-bit differences is stored as it is."""

_RANDOM = 10_000
"""Length of the standard's random sequence."""

_BLOCK = 32
"""Pixels of a block that two lanes decode in turn; almost all files have this block size."""

_LANE = np.dtype(
    [
        ("tile", np.int64),  # number of the tile; K or more if there is none left
        ("left", np.int64),  # pixels that are not decoded yet; -1 if the stream is damaged
        ("at", np.uint64),  # address of the next bit: 8 times that of its byte, plus its place in it
        ("end", np.uint64),  # address of the bit after the stream
        ("out", np.uint64),  # address of the next pixel
        ("entry", np.int64),  # of the random sequence
        ("start", np.int64),  # place of the next pixel in the random sequence
        ("scale", np.float64),
        ("zero", np.float64),
        ("last", np.int32),  # integer of the last pixel
        ("blank", np.int32),  # integer that stands for NaN
        ("has_blank", np.int8),
        ("blanks", np.int8),  # whether a pixel was NaN
    ],
    align=True,
)


@compiled
def _has_hole(address: int, size: int, hole: int) -> bool:
    """Return whether the stream has ``hole`` zero bytes in a row: every such run covers a multiple of ``hole``."""
    at = int64(hole) - 1
    while at < size:
        if load_big_endian(uint64(address) + uint64(at)) >> uint64(56) == 0:
            low, high = at, at + 1
            while low > 0 and load_big_endian(uint64(address) + uint64(low - 1)) >> uint64(56) == 0:
                low -= 1
            while high < size and load_big_endian(uint64(address) + uint64(high)) >> uint64(56) == 0:
                high += 1
            if high - low >= hole:
                return True
        at += hole
    return False


@inlined
def _bits(at):  # type: ignore[no-untyped-def]
    """Return at least 57 bits of a stream from a bit address on, the first one the most significant."""
    return load_big_endian(at >> uint64(3)) << (at & uint64(7))


@inlined
def _window(at):  # type: ignore[no-untyped-def]
    """Return 55 bits of a stream and the marker bit; the lowest byte stays free for the zeros of a code."""
    return ((load_big_endian(at >> uint64(3)) & uint64(0xFFFFFFFFFFFFFE00)) | uint64(0x100)) << (at & uint64(7))


@inlined
def _after(at, window, nowhere):  # type: ignore[no-untyped-def]
    """Return the bit address after the codes that were taken from a window; ``nowhere`` if the window was too short."""
    return (at & ~uint64(7)) + trailing_zeros(window) - uint64(8) if window else nowhere


@inlined
def _code(window, step, to):  # type: ignore[no-untyped-def]
    """Store one code, its bits from the top and its number of zeros at the bottom; return the rest of the window."""
    zeros = leading_zeros(window)
    window <<= zeros & uint64(63)
    store(to, window | zeros)
    return window << step


@inlined
def _two(window, step, to):  # type: ignore[no-untyped-def]
    return _code(_code(window, step, to), step, to + uint64(8))


@inlined
def _four(window, step, to):  # type: ignore[no-untyped-def]
    return _two(_two(window, step, to), step, to + uint64(16))


@compiled
def _decode_pair(a, b, most, codes, nowhere, dither, zeros):  # type: ignore[no-untyped-def]
    """Decode up to ``most`` blocks of 32 pixels of two lanes in turn; returns how many were decoded.

    Codes of a block are stored, and become pixels while those of the next block are decoded. It stops before a block that
    must be decoded with care, or whose stream ends.
    """
    at0, last0, out0, numbers0 = a.at, a.last, a.out, dither + uint64(8 * a.start)
    at1, last1, out1, numbers1 = b.at, b.last, b.out, dither + uint64(8 * b.start)
    has_blank0, has_blank1, blanks0, blanks1 = a.has_blank != 0, b.has_blank != 0, uint64(0), uint64(0)
    plain = not zeros and not has_blank0 and not has_blank1
    split0, split1 = int32(0), int32(0)
    now, before = codes, codes + uint64(512)  # of each lane 32 codes of 8 bytes
    done, sound = 0, True
    while sound:
        next0, next1 = at0 + uint64(5), at1 + uint64(5)
        step0, step1 = _bits(at0) >> uint64(59), _bits(at1) >> uint64(59)
        sound = done < most and step0 - uint64(1) < uint64(17) and step1 - uint64(1) < uint64(17)
        for g in range(4):  # eight pixels each
            if sound and step0 <= uint64(8) and step1 <= uint64(8):
                for h in range(2):
                    to = now + uint64(64 * g + 32 * h)
                    window0, window1 = _window(next0), _window(next1)
                    next0 = _after(next0, _four(window0, step0, to), nowhere)
                    next1 = _after(next1, _four(window1, step1, to + uint64(256)), nowhere)
            elif sound:
                for h in range(4):
                    to = now + uint64(64 * g + 16 * h)
                    window0, window1 = _window(next0), _window(next1)
                    next0 = _after(next0, _two(window0, step0, to), nowhere)
                    next1 = _after(next1, _two(window1, step1, to + uint64(256)), nowhere)
            if done:
                of0, of1 = before + uint64(64 * g), before + uint64(64 * g + 256)
                if plain:
                    last0 = eight_plain_pixels(of0, split0, last0, numbers0, a.scale, a.zero, out0)
                    last1 = eight_plain_pixels(of1, split1, last1, numbers1, b.scale, b.zero, out1)
                else:
                    both0 = eight_pixels(
                        of0, split0, last0, numbers0, a.scale, a.zero, out0, zeros, has_blank0, a.blank
                    )
                    both1 = eight_pixels(
                        of1, split1, last1, numbers1, b.scale, b.zero, out1, zeros, has_blank1, b.blank
                    )
                    last0, last1 = int32(uint32(both0)), int32(uint32(both1))
                    blanks0 |= both0 >> uint64(32)
                    blanks1 |= both1 >> uint64(32)
                numbers0, numbers1 = numbers0 + uint64(64), numbers1 + uint64(64)
                out0, out1 = out0 + uint64(32), out1 + uint64(32)
        sound = sound and nowhere not in (next0, next1) and next0 <= a.end and next1 <= b.end
        if sound:
            at0, at1, split0, split1 = next0, next1, int32(step0) - int32(1), int32(step1) - int32(1)
            now, before = before, now
            done += 1
    a.at, a.last, a.out, a.blanks = at0, last0, out0, a.blanks | int8(blanks0)
    b.at, b.last, b.out, b.blanks = at1, last1, out1, b.blanks | int8(blanks1)
    for lane in (a, b):
        lane.left -= done * _BLOCK
        lane.start += done * _BLOCK
    return done


@compiled
def _read_codes(at, end, count, codes):  # type: ignore[no-untyped-def]
    """Read the codes of one block, one by one; returns the bit address after it, 0 for a damaged stream."""
    split = int64(_bits(at) >> uint64(59)) - 1
    if split > _RAW:
        return uint64(0)
    at += uint64(5)
    for j in range(count):
        code = uint64(0)
        if split == _RAW:
            code = _bits(at) >> uint64(32)
            at += uint64(32)
        elif split >= 0:
            zeros, bits = uint64(0), _bits(at)
            while bits == 0 and at <= end:
                zeros += uint64(64) - (at & uint64(7))
                at += uint64(64) - (at & uint64(7))
                bits = _bits(min(at, end))
            zeros += leading_zeros(bits)
            at += leading_zeros(bits) + uint64(1)
            code = (zeros << uint64(split)) | ((_bits(min(at, end)) >> uint64(1)) >> uint64(63 - split))
            at += uint64(split)
        if at > end:
            return uint64(0)
        store(codes + uint64(8 * j), code << uint64(32) | uint64(1))
    return at


@compiled
def _decode_with_care(lane, block, codes, numbers, pixels, dither, starts, zeros):  # type: ignore[no-untyped-def]
    """Decode one block of a lane, whatever is in it."""
    count = min(block, lane.left)
    at = _read_codes(lane.at, lane.end, count, uint64(codes.ctypes.data))
    if at == uint64(0):
        lane.left = -1
        return
    for j in range(count):
        numbers[j] = dither[lane.start]
        lane.start += 1
        if lane.start == _RANDOM:
            lane.entry = (lane.entry + 1) % _RANDOM
            lane.start = starts[lane.entry]
    for g in range(0, count, 8):
        both = eight_pixels(
            uint64(codes.ctypes.data) + uint64(8 * g), int32(31), lane.last, uint64(numbers.ctypes.data) + uint64(8 * g),
            lane.scale, lane.zero, uint64(pixels.ctypes.data) + uint64(4 * g), zeros, lane.has_blank != 0, lane.blank,
        )  # fmt: skip
        lane.last = int32(uint32(both))
        lane.blanks |= int8(both >> uint64(32))
    out = floats(lane.out, count)
    for j in range(count):
        out[j] = pixels[j]
    lane.at, lane.left, lane.out = at, lane.left - count, lane.out + uint64(4 * count)


@compiled
def decode_rice(
    addresses, sizes, outs, counts, block, hole, scale, zero, dither, starts, entries, zeros, blanks, has_blank
):  # type: ignore[no-untyped-def]
    """Decode quantised and dithered Rice tiles of 32-bit integers to float32.

    Parameters
    ----------
    addresses, sizes
        ``(K,)`` uint64 where the stream of each tile is in memory, and its bytes; 128 readable bytes must follow each.
    outs, counts
        ``(K,)`` uint64 where the pixels of each tile go, and int64 how many: the first ones of the tile.
    block
        Pixels of a block (``BLOCKSIZE``).
    hole
        Zero bytes in a row that no valid stream has.
    scale, zero
        ``(K,)`` float64 of each tile.
    dither, starts
        The standard's random sequence, float64, and for each entry where a tile starts in it, int64.
    entries
        ``(K,)`` int64 entry of each tile, below the length of the sequence.
    zeros
        Whether SUBTRACTIVE_DITHER_2's integer stands for exactly zero.
    blanks, has_blank
        ``(K,)`` int64 integer that stands for NaN in each tile, if there is one.

    Returns
    -------
    status
        ``(K,)`` int8: 0 where every pixel is finite, 1 where some may not be, -1 where the stream is damaged or this
        kernel does not support it; the pixels are then undefined.
    """
    tiles = len(addresses)
    status = np.empty(tiles, np.int8)
    room = (max(block, 4 * _BLOCK) + 7) & ~7
    codes, numbers, pixels = np.ones(room, np.uint64), np.zeros(room), np.empty(room, np.float32)
    nothing = np.zeros(16, np.uint64)
    nowhere = uint64(nothing.ctypes.data) << uint64(3)
    lanes = np.zeros(3, _LANE)
    following = 0
    lanes[0].tile = lanes[1].tile = -1
    while True:
        most = tiles << 40
        for i in range(2):
            lane = lanes[i]
            while lane.left <= 0 and lane.tile < tiles:
                if lane.tile >= 0:
                    overflows = not abs(lane.scale) * 2.0**32 + abs(lane.zero) < 3e38
                    status[lane.tile] = -1 if lane.left < 0 else int8(lane.blanks or overflows)
                k = lane.tile = following
                following += 1
                if k < tiles and (sizes[k] < 5 or _has_hole(addresses[k], int64(sizes[k]), hole)):
                    lane.left = -1
                elif k < tiles:
                    lane.left, lane.out = counts[k], outs[k]
                    lane.at, lane.end = uint64(8) * (addresses[k] + uint64(4)), uint64(8) * (addresses[k] + sizes[k])
                    lane.last = int32(uint32(load_big_endian(addresses[k]) >> uint64(32)))
                    lane.entry, lane.start = entries[k], starts[entries[k]]
                    lane.scale, lane.zero, lane.blank, lane.blanks = scale[k], zero[k], int32(blanks[k]), 0
                    lane.has_blank = has_blank and blanks[k] == int32(blanks[k])
            if lane.tile < tiles:
                most = min(most, lane.left // _BLOCK, (_RANDOM - 1 - lane.start) // _BLOCK)
        if lanes[0].tile >= tiles and lanes[1].tile >= tiles:
            return status
        if block == _BLOCK and most > 0:
            a, b = (lanes[0], lanes[1]) if lanes[0].tile < tiles else (lanes[1], lanes[0])
            if b.tile >= tiles:  # the last tile: the other lane repeats it
                lanes[2] = a
                b = lanes[2]
            done = _decode_pair(a, b, most, uint64(codes.ctypes.data), nowhere, uint64(dither.ctypes.data), zeros)
            if done == most:
                continue
        for i in range(2):
            if lanes[i].tile < tiles:
                _decode_with_care(lanes[i], block, codes, numbers, pixels, dither, starts, zeros)
