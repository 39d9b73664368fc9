"""Eight pixels at once from the codes of a Rice stream, in vectors of LLVM that name no instruction set."""

# ruff: noqa: ARG001 - numba reads the names of arguments and calls `generate` by place

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["eight_pixels", "eight_plain_pixels"]

_ZERO = -2147483646
"""The integer that SUBTRACTIVE_DITHER_2 keeps for pixels of exactly zero."""

_I32, _I64, _F32, _F64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
_int32, _uint64, _float64, _bool = types.int32, types.uint64, types.float64, types.boolean
_PLAIN = (_uint64, _int32, _int32, _uint64, _float64, _float64, _uint64)


class _Vectors:
    """Builds instructions on eight numbers."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def constant(self, value: float, kind: Any = _I32) -> Any:
        return ir.Constant(ir.VectorType(kind, 8), [value] * 8)

    def all(self, value: Any) -> Any:
        """Return eight times a number."""
        one = self.builder.insert_element(ir.Constant(ir.VectorType(value.type, 8), ir.Undefined), value, _I32(0))
        return self.pick(one, one, [0] * 8)

    def pick(self, first: Any, second: Any, places: Sequence[int]) -> Any:
        """Return elements of two vectors: those of the second are counted on from the first."""
        return self.builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, 8), [*places]))

    def load(self, address: Any, kind: Any, length: int = 8) -> Any:
        value = self.builder.load(self.builder.inttoptr(address, ir.VectorType(kind, length).as_pointer()))
        value.align = 4
        return value

    def integers(self, codes: Any, split: Any, last: Any) -> Any:
        """Return the integers of eight pixels: codes are folded differences to the pixel before, 0, -1, 1, -2, ..."""
        b, none = self.builder, self.constant(0)
        raw = self.load(codes, _I32, 16)
        low, high = self.pick(raw, raw, range(0, 16, 2)), self.pick(raw, raw, range(1, 16, 2))
        zeros = b.and_(low, self.constant(0xFF))
        # The bit that ends the zeros is on top of `high`, the split bits below it.
        left = self.all(split)
        ended = b.lshr(high, b.sub(self.constant(31), left))
        folded = b.add(ended, b.shl(b.sub(zeros, self.constant(1)), left))
        value = b.xor(b.lshr(folded, self.constant(1)), b.sub(none, b.and_(folded, self.constant(1))))
        for places in ([8, 0, 1, 2, 8, 4, 5, 6], [8, 8, 0, 1, 8, 8, 4, 5], [8, 8, 8, 8, 3, 3, 3, 3]):  # running sum
            value = b.add(value, self.pick(value, none, places))
        return b.add(value, self.all(last))

    def floats(self, integers: Any, dither: Any, scale: Any, zero: Any) -> Any:
        """Return ``(integer - dither + 0.5) * scale + zero``, in float64 and rounded once."""
        b = self.builder
        value = b.fsub(b.sitofp(integers, ir.VectorType(_F64, 8)), self.load(dither, _F64))
        value = b.fadd(b.fmul(b.fadd(value, self.constant(0.5, _F64)), self.all(scale)), self.all(zero))
        return b.fptrunc(value, ir.VectorType(_F32, 8))

    def write(self, values: Any, address: Any) -> None:
        self.builder.store(values, self.builder.inttoptr(address, values.type.as_pointer())).align = 4


@intrinsic  # type: ignore[untyped-decorator]
def eight_plain_pixels(
    context: Any, codes: Any, split: Any, last: Any, dither: Any, scale: Any, zero: Any, out: Any
) -> Any:
    """Write eight float32 pixels at ``out`` from the codes and random numbers at two addresses; returns the last integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, split, last, dither, scale, zero, out = arguments
        vectors = _Vectors(builder)
        integers = vectors.integers(codes, split, last)
        vectors.write(vectors.floats(integers, dither, scale, zero), out)
        return builder.extract_element(integers, _I32(7))

    return _int32(*_PLAIN), generate


@intrinsic  # type: ignore[untyped-decorator]
def eight_pixels(
    context: Any,
    codes: Any,
    split: Any,
    last: Any,
    dither: Any,
    scale: Any,
    zero: Any,
    out: Any,
    zeros: Any,
    has_blank: Any,
    blank: Any,
) -> Any:
    """Do the same where integers may stand for zero or NaN; returns the last integer and, above it, whether there is a NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, split, last, dither, scale, zero, out, zeros, has_blank, blank = arguments
        b, vectors = builder, _Vectors(builder)
        integers = vectors.integers(codes, split, last)
        values = vectors.floats(integers, dither, scale, zero)
        is_zero = b.and_(
            b.icmp_signed("==", integers, vectors.constant(_ZERO)), vectors.all(b.trunc(zeros, ir.IntType(1)))
        )
        is_nan = b.and_(
            b.icmp_signed("==", integers, vectors.all(blank)), vectors.all(b.trunc(has_blank, ir.IntType(1)))
        )
        values = b.select(is_zero, vectors.constant(0.0, _F32), values)
        values = b.select(is_nan, vectors.constant(float("nan"), _F32), values)
        vectors.write(values, out)
        any_nan = b.icmp_unsigned("!=", b.bitcast(is_nan, ir.IntType(8)), ir.IntType(8)(0))
        return b.or_(b.zext(b.extract_element(integers, _I32(7)), _I64), b.shl(b.zext(any_nan, _I64), _I64(32)))

    return _uint64(*_PLAIN, _bool, _bool, _int32), generate
