"""How far a cache may grow, or must shrink: a look at the process and at the machine, once a second and while it grows."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from ...source.limits import MemoryLimits
from .budget import shown_bytes

__all__ = ["SLACK", "MemoryWatch", "Room", "resident_bytes"]

SLACK = 300_000_000
"""Bytes that a process may hold beyond what it held at first and the budget, before the cache shrinks: compressed bytes, file
headers, what the C library keeps of freed arrays, a training's own growth."""

_LOOK_SECONDS = 1.0
_LOOK_BYTES = 32_000_000
"""How often is looked, and after what growth: two threads decode 400 MB a second, and a process in a control group of 700 MB
was killed between two looks. One look costs 0.3 to 0.7 ms, the decoding of 32 MB 50."""

_FLOOR_SHARE, _FLOOR_LEAST, _FLOOR_MOST = 0.05, 3 * _LOOK_BYTES, 1_000_000_000
"""Available memory below which the cache shrinks: a share of the whole limit, bytes that what goes on between two looks
does not use up, and bytes that are enough anywhere."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a look found.

    Attributes
    ----------
    nbytes
        How much more the cache may take; negative: how much it must give back.
    limited_by
        ``process``, or what `MemoryLimits` says.
    why
        What to tell of it when the cache shrinks.
    """

    nbytes: int
    limited_by: str
    why: str


def resident_bytes() -> int:
    """Return the resident set of this process, in bytes; costs about 0.02 ms."""
    return int(psutil.Process().memory_info().rss)


@dataclass(slots=True)
class MemoryWatch:
    """Looks at the memory of the process and of the machine.

    Parameters
    ----------
    limits
        Says how much memory there is.
    resident
        Says what the process holds.
    """

    limits: Callable[[], MemoryLimits]
    resident: Callable[[], int] = resident_bytes
    base: int | None = None
    next_look: float = 0.0
    next_bytes: int = _LOOK_BYTES

    def due(self, held: int) -> bool:
        """Return whether it is time for a look, or what is held has grown enough for one; True once for each."""
        now = time.monotonic()
        if now < self.next_look and held < self.next_bytes:
            return False
        self.next_look, self.next_bytes = now + _LOOK_SECONDS, held + _LOOK_BYTES
        return True

    def look(self, held: int, budget: int, *, settled: bool) -> Room:
        """Look.

        Parameters
        ----------
        held
            Bytes that the cache accounts for: its own and those reserved.
        budget
            Bytes that it may account for.
        settled
            Whether something has been decoded; before, the process still imports and compiles.
        """
        rooms = self._process_room(held, budget, settled=settled), self._machine_room()
        return min(rooms, key=lambda room: room.nbytes)

    def _process_room(self, held: int, budget: int, *, settled: bool) -> Room:
        holds = self.resident()
        if self.base is None:
            if not settled:
                return Room(budget, "process", "")
            self.base = max(0, holds - held)
        most = self.base + budget + SLACK
        # What goes on growing then is no tile. The cache gives way, but half of it stays while the machine has memory:
        # a training that decodes everything again is no better off.
        room = max(most - holds, budget // 2 - held)
        why = (
            f"this process holds {shown_bytes(holds)}, more than the {shown_bytes(self.base)} that it held when the tile "
            f"cache was new, the cache's budget of {shown_bytes(budget)} and {shown_bytes(SLACK)}; something else has grown"
        )
        return Room(room, "process", why)

    def _machine_room(self) -> Room:
        limits = self.limits()
        floor = min(_FLOOR_MOST, max(_FLOOR_LEAST, int(_FLOOR_SHARE * limits.total)))
        short = limits.available - floor
        # Growing again needs more than shrinking left, or the cache would do both in turns. Other ranks look as well.
        room = short if short < 0 else max(0, short - floor) // limits.ranks
        why = f"{limits.available / 1e9:.1f} GB available of {limits.total / 1e9:.1f} GB (limited by the {limits.limited_by})"
        return Room(room, limits.limited_by, why)
