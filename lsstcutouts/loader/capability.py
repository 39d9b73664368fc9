"""What an NVIDIA GPU can do, by its compute capability alone: no torch, no GPU needed to ask."""

from ..errors import ConfigurationError

__all__ = ["BFLOAT16_FROM", "COMPILES_FROM", "WIRES", "can_compile", "check_wire", "limits_of"]

COMPILES_FROM = (7, 0)
"""Oldest compute capability that Triton, behind `torch.compile`, makes code for."""

BFLOAT16_FROM = (8, 0)
"""Oldest compute capability with instructions for bfloat16."""

WIRES = ("float32", "bfloat16", "float16")
"""Types in which pixels can travel to the device."""


def can_compile(capability: tuple[int, int] | None) -> bool:
    """Return whether `torch.compile` makes code for a GPU of this capability; None is a CPU."""
    return capability is None or capability >= COMPILES_FROM


def check_wire(wire: str, capability: tuple[int, int] | None = None) -> None:
    """Raise if pixels cannot travel in this type to a GPU of this capability; None is a CPU.

    Raises
    ------
    ConfigurationError
        If there is no such type, or the GPU does not know it.
    """
    if wire not in WIRES:
        raise ConfigurationError(f"wire must be one of {', '.join(WIRES)}, got {wire!r}")
    if wire == "bfloat16" and capability is not None and capability < BFLOAT16_FROM:
        raise ConfigurationError(
            f"wire='bfloat16' needs a GPU of compute capability {_dotted(BFLOAT16_FROM)}, this one has "
            f"{_dotted(capability)}; use wire='float16' (also half the bytes) or wire='float32'"
        )


def limits_of(capability: tuple[int, int]) -> str:
    """Return what a GPU of this capability cannot do and which settings suit it, one line; empty for a newer one."""
    lacking = []
    if not can_compile(capability):
        lacking.append("no torch.compile")
    if capability < BFLOAT16_FROM:
        lacking.append("no bfloat16 (take wire=float16 or float32)")
    if capability == (6, 1):  # 2 results a clock and multiprocessor against 128 (CUDA C++ Programming Guide)
        lacking.append("float16 arithmetic is slower than 32 bit (precision 32-true)")
    return ", ".join(lacking)


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
