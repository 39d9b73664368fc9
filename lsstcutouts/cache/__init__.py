"""Decoded tiles kept in memory, and how much memory there is for them."""

from .heap import resident_bytes, trim_heap
from .limits import MemoryLimits, available_memory, memory_limits
from .memory import parse_bytes, resolve_budget, shown_bytes
from .stats import CacheStats
from .tiles import Sized, TileCache
from .watch import SLACK, MemoryWatch

__all__ = [
    "SLACK",
    "CacheStats",
    "MemoryLimits",
    "MemoryWatch",
    "Sized",
    "TileCache",
    "available_memory",
    "memory_limits",
    "parse_bytes",
    "resident_bytes",
    "resolve_budget",
    "shown_bytes",
    "trim_heap",
]
