"""What a cache has done and holds, in figures that add up over processes."""

from dataclasses import dataclass, fields, replace

__all__ = ["CacheStats"]

_HELD = ("entries", "bytes", "reserved", "max_bytes")
"""What is held now; the rest counts what has happened."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache has done and holds. Those of several processes add up.

    Attributes
    ----------
    hits
        Tile requests that were served without a decode, those that waited for another batch's decode included.
    misses
        Tile requests that were decoded.
    evictions
        Entries dropped to stay within the budget.
    waits
        Claims of other batches that were waited for.
    entries, bytes
        Tiles that are held now, and the memory for tiles.
    max_bytes
        The budget now.
    reserved
        Bytes of the budget that batches under way hold now.
    bytes_read
        Compressed bytes read from files.
    bytes_delivered
        Bytes of the pixels of delivered cutouts.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    waits: int = 0
    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0
    reserved: int = 0
    bytes_read: int = 0
    bytes_delivered: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of tile requests served without a decode; 0 before the first."""
        requests = self.hits + self.misses
        return self.hits / requests if requests else 0.0

    @property
    def read_per_useful(self) -> float:
        """Bytes read from files for each byte of a delivered cutout; 0 before the first."""
        return self.bytes_read / self.bytes_delivered if self.bytes_delivered else 0.0

    @property
    def past(self) -> "CacheStats":
        """What is left of a process that has ended: it holds nothing, what it did stays done."""
        return replace(self, **dict.fromkeys(_HELD, 0))

    def __add__(self, other: "CacheStats") -> "CacheStats":
        """Return what two processes have done and hold together."""
        return CacheStats(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, earlier: "CacheStats") -> "CacheStats":
        """Return what happened since ``earlier``; what is held stays as it is now."""
        counters = [f.name for f in fields(self) if f.name not in _HELD]
        return replace(self, **{name: getattr(self, name) - getattr(earlier, name) for name in counters})
