"""What the kernels have in common: how they are compiled, and how they reach memory by address.

Addresses are how tiles and batches of any number go to one call: a typed list of arrays costs more to make than the
work that it carries.
"""

# ruff: noqa: ARG001 - numba reads the names of arguments and calls `generate` by place

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "compiled",
    "copy_bytes",
    "fetch_ahead",
    "floats",
    "inlined",
    "leading_zeros",
    "load_big_endian",
    "store",
    "trailing_zeros",
]


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call and keep the machine code on disk, where that is possible."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside the module nor in the user's folders can files be written
        return numba.njit(**options)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function into each of its callers, so that a call costs nothing."""
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


@intrinsic  # type: ignore[untyped-decorator]
def load_big_endian(typing_context: Any, address: Any) -> Any:
    """Return the eight bytes at an address as one integer, the first byte the most significant."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))
        value.align = 1
        return builder.bswap(value)

    return types.uint64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def leading_zeros(typing_context: Any, value: Any) -> Any:
    """Return the number of zero bits above the highest one of a 64-bit integer; 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def trailing_zeros(typing_context: Any, value: Any) -> Any:
    """Return the number of zero bits below the lowest one of a 64-bit integer; 64 for zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(typing_context: Any, address: Any, value: Any) -> Any:
    """Write a 64-bit integer to an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def fetch_ahead(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which is about to be read."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [builder.inttoptr(arguments[0], byte), word(0), word(2), word(1)])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _floats_at(typing_context: Any, address: Any) -> Any:
    """Return a pointer to float32 values at an address, for `numba.carray`."""
    pointer = types.CPointer(types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(types.uint64), generate


@inlined
def floats(address, count):  # type: ignore[no-untyped-def]
    """Return an array of ``count`` float32 values at an address."""
    return numba.carray(_floats_at(address), count)


@intrinsic  # type: ignore[untyped-decorator]
def copy_bytes(typing_context: Any, to: Any, source: Any, count: Any) -> Any:
    """Copy ``count`` bytes from one address to another; the two may not overlap."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        target, origin = (builder.inttoptr(argument, byte) for argument in arguments[:2])
        cgutils.raw_memcpy(builder, target, origin, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.intp), generate
