"""Decoded tiles kept in memory, and how much memory there is for them."""

from .memory import MemoryLimits, available_memory, memory_limits, parse_bytes, resolve_budget
from .tiles import CacheStats, TileCache

__all__ = [
    "CacheStats",
    "MemoryLimits",
    "TileCache",
    "available_memory",
    "memory_limits",
    "parse_bytes",
    "resolve_budget",
]
