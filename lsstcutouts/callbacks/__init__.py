"""Lightning callbacks: how fast a training consumes cutouts, what the cache does, and a checkpoint after each epoch."""

from .keep import KeepLast
from .monitor import CacheMonitor
from .throughput import Throughput

__all__ = ["CacheMonitor", "KeepLast", "Throughput"]
