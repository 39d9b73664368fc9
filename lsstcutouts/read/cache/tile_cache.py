"""The cache of decoded tiles: one per process, bounded in bytes, shared by all threads."""

import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigurationError, MemoryBudgetError
from ...source.limits import MemoryLimits, memory_limits
from .budget import check_budget, resolve_budget, shown_bytes
from .slots import Slots
from .state import Block, Flight, State, Wanted
from .stats import CacheStats
from .watch import MemoryWatch

__all__ = ["Claim", "TileCache", "Wanted"]

type Integers = NDArray[np.int64]
type Pins = list[tuple[Slots, Integers]]

_LOG = logging.getLogger(__name__)


class TileCache:
    """Least recently used tiles, bounded in bytes. Thread-safe; simultaneous requests decode once.

    Its budget is shared with what is reserved, the buffers of batches under way: while they are out, fewer tiles are
    kept. It pickles as its settings, empty, and starts empty in a forked process: tiles are cheaper to decode than
    to send, and a lock that was held during a fork would stay locked.

    Parameters
    ----------
    max_bytes
        Budget: whole bytes, an amount such as ``"2 GB"``, a share of the available memory as a float in (0, 1], or
        ``"auto"``, see `resolve_budget`. It is computed at the first use, in the process that uses it.
    limits
        Says how much memory there is. While available memory is short, or the process has grown beyond the budget by
        other things, the cache shrinks, and says so once in the log.

    Raises
    ------
    ConfigurationError
        The budget cannot be understood.
    """

    def __init__(self, max_bytes: float | str = "auto", *, limits: Callable[[], MemoryLimits] = memory_limits) -> None:
        check_budget(max_bytes)
        self._setting: float | str = max_bytes
        self._limits = limits
        self._processes = 1
        self._ranks: int | None = None
        self._states: dict[int, State] = {}

    def claim(self, wanted: Sequence[Wanted]) -> "Claim":
        """Find tiles in the cache and make room for the others, in one step.

        What is claimed stays where it is until the claim is dropped. Where the tiles of one claim are more than the budget,
        they are there until then, and are not kept.
        """
        state = self._state()
        with state.lock:
            state.settle()
            number, found = state.claim(wanted)
            claim = Claim(state, number, found)
            made = sum(int(missing.sum()) for _, _, missing in found)
            state.misses += made
            state.hits += sum(one.requests for one in wanted) - made
            state.waits += len(claim.waits)
        self._watch(state)
        return claim

    def absent(self, wanted: Sequence[Wanted]) -> list[Integers]:
        """Return the positions of the tiles that are not in the cache, ``(a,)`` for each plane."""
        state = self._state()
        with state.lock:
            state.settle()
            return [state.absent(one) for one in wanted]

    def reserve(self, nbytes: int) -> None:
        """Take bytes of the budget for something beside the entries, a batch under way for example.

        Entries are dropped to make room. When reservations alone exceed the budget nothing fails: no entry is kept,
        and that is logged once in the log. Everything that is reserved must be released, in the same process.
        """
        state = self._state()
        self._watch(state)
        with state.lock:
            state.reserved += nbytes
            state.settle()
            tell = state.reserved > state.max_bytes and not state.said_crowded
            state.said_crowded = state.said_crowded or tell
        if tell:
            _LOG.warning(
                "the batches that are being read need %s, more than cache_bytes (%s), so no tile is kept, and each "
                "batch decodes all its tiles again. Use a smaller batch_size or a larger cache_bytes",
                shown_bytes(state.reserved),
                shown_bytes(state.max_bytes),
            )

    def release(self, nbytes: int) -> None:
        """Give back reserved bytes. May be called from finalisers, in whatever the thread is doing: it takes no lock."""
        # A forked process that has not used the cache has reserved nothing.
        state = self._states.get(os.getpid())
        if state is not None:
            state.released.append(nbytes)

    def note(self, *, read: int = 0, delivered: int = 0) -> None:
        """Count compressed bytes that were read from files, and bytes of the pixels of delivered cutouts."""
        state = self._state()
        with state.lock:
            state.bytes_read += read
            state.bytes_delivered += delivered

    def stats(self) -> CacheStats:
        """Return what the cache has done in this process, and holds."""
        state = self._state()
        with state.lock:
            state.settle()
            return CacheStats(
                hits=state.hits,
                misses=state.misses,
                evictions=state.evictions,
                waits=state.waits,
                entries=state.entries,
                bytes=state.bytes,
                max_bytes=state.max_bytes,
                reserved=state.reserved,
                bytes_read=state.bytes_read,
                bytes_delivered=state.bytes_delivered,
            )

    def resize(self, max_bytes: float | str) -> None:
        """Give the cache another budget; what exceeds it is dropped.

        Raises
        ------
        ConfigurationError
            The budget cannot be understood.
        """
        check_budget(max_bytes)
        self._rebudget(max_bytes, self._processes, self._ranks)

    def share_among(self, processes: int, *, ranks: int | None = None) -> None:
        """Take only this process's part of the budget.

        Parameters
        ----------
        processes
            How many processes each have this cache.
        ranks
            How many ranks of a job on this machine have a budget each; they share the memory that ``"auto"`` and
            shares are parts of. None leaves it at what was said before, at first at what the environment says.

        Raises
        ------
        ConfigurationError
            Fewer than one process or rank.
        """
        ranks = self._ranks if ranks is None else ranks
        if processes < 1 or (ranks is not None and ranks < 1):
            raise ConfigurationError(
                f"processes={processes} and ranks={ranks or 'unknown'} of a shared cache must be at least 1"
            )
        if (processes, ranks) != (self._processes, self._ranks):
            self._rebudget(self._setting, processes, ranks)

    @property
    def max_bytes(self) -> int:
        """The budget in this process, bytes."""
        return self._state().max_bytes

    def clear(self) -> None:
        """Drop every tile; the statistics go on, and the memory waits for the next tiles."""
        state = self._state()
        with state.lock:
            state.settle()
            for pool in state.pools.values():
                state.detach(pool, np.arange(len(pool)))

    def __len__(self) -> int:
        return self.stats().entries

    def __getstate__(self) -> dict[str, Any]:
        return {
            "max_bytes": self._setting,
            "limits": self._limits,
            "processes": self._processes,
            "ranks": self._ranks,
        }

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self._setting, self._limits = settings["max_bytes"], settings["limits"]
        self._processes, self._ranks, self._states = settings["processes"], settings["ranks"], {}

    def __repr__(self) -> str:
        return f"TileCache({self._setting!r})"

    def _state(self) -> State:
        """Return this process's entries and counters, made again after a fork."""
        pid = os.getpid()
        state = self._states.get(pid)
        if state is None:
            budget = resolve_budget(self._setting, self._processes, limits=self._shared_limits())
            state = self._states.setdefault(pid, State(pid, budget, budget, MemoryWatch(self._shared_limits)))
            for other in [p for p in self._states if p != pid]:
                self._states.pop(other, None)
        return state

    def _shared_limits(self) -> MemoryLimits:
        """Return how much memory there is, and for how many ranks."""
        limits = self._limits()
        return limits if self._ranks is None else replace(limits, ranks=self._ranks)

    def _rebudget(self, setting: float | str, processes: int, ranks: int | None) -> None:
        """Take over settings and, where the cache is in use, apply them."""
        before = self._setting, self._processes, self._ranks
        self._setting, self._processes, self._ranks = setting, processes, ranks
        state = self._states.get(os.getpid())
        if state is None:
            return
        try:
            budget = resolve_budget(setting, processes, limits=self._shared_limits())
        except MemoryBudgetError:
            self._setting, self._processes, self._ranks = before
            raise
        with state.lock:
            state.max_bytes = state.limit = budget
            state.settle()

    def _watch(self, state: State) -> None:
        """Lower the limit while memory is short, and lift it again; hits alone come by here too."""
        held = state.bytes + state.reserved
        if not state.watch.due(held):
            return
        room = state.watch.look(held, state.max_bytes, settled=state.misses > 0)
        with state.lock:
            if room.nbytes < 0:
                state.limit = max(0, min(held, state.limit) + room.nbytes)
            else:
                state.limit = min(state.max_bytes, max(state.limit, held + room.nbytes))
            state.settle()
            tell = room.nbytes < 0 and not state.said_short
            state.said_short = state.said_short or tell
        if tell:
            _LOG.warning(
                "memory is low: %s. The limit of the tile cache, including the batches that are being read, decreases from %s "
                "to %s until memory is available. Use a smaller cache_bytes or batch_size",
                room.why,
                shown_bytes(held),
                shown_bytes(state.limit),
            )


class Claim:
    """Tiles that stay in memory while a batch is read; some are there, the others are to be filled by who made the claim.

    Others have what was filled from `finish` on. It ends with `end`, or with the last reference to it.

    Attributes
    ----------
    missing
        Of each plane the positions among its tiles that are to be filled here, ``(m,)``.
    waits
        Claims that fill the rest, and have not ended.
    """

    def __init__(self, state: State, number: int, found: "list[tuple[Block, Integers, NDArray[np.bool_]]]") -> None:
        self._cache_state, self._number, self._found = state, number, found
        self._flight = state.flights[number] = Flight()
        self.missing = [np.flatnonzero(missing) for _, _, missing in found]
        self.waits = [state.flights[n] for n in sorted(self._makers()) if n in state.flights]
        held: dict[Slots, list[Integers]] = {}
        for block, slots, _ in found:
            held.setdefault(block.pool, []).append(slots)
        self._pins = [(pool, np.concatenate(slots)) for pool, slots in held.items()]
        self.end = weakref.finalize(self, _drop, self._flight, state.dropped, number, self._pins)
        self.end.atexit = False

    def _makers(self) -> set[int]:
        """Return the claims that fill tiles of this one and have not finished."""
        makers: set[int] = set()
        for block, slots, _ in self._found:
            pool = block.pool
            makers.update(pool.flight[slots[~pool.ready[slots]]].tolist())
        return makers - {self._number}

    def addresses(self, plane: int) -> NDArray[np.uint64]:
        """Return where the tiles of a plane are in memory, ``(k,)``."""
        block, slots, _ = self._found[plane]
        return block.pool.address[slots]

    def finite(self, plane: int) -> NDArray[np.bool_]:
        """Return of which tiles of a plane all pixels are surely finite, ``(k,)``."""
        block, slots, _ = self._found[plane]
        return block.pool.finite[slots]

    def rows(self, plane: int) -> Integers:
        """Return how many rows of the tiles of a plane there is room for, ``(k,)``."""
        block, slots, _ = self._found[plane]
        return block.pool.rows[slots]

    def view(self, plane: int, position: int, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return one tile as an array."""
        block, slots, _ = self._found[plane]
        return block.pool.view(int(slots[position]), np.dtype(kind), shape)

    def fill(self, plane: int, positions: Integers, finite: NDArray[np.bool_] | bool) -> None:
        """Note which tiles have been filled, and whether all their pixels are surely finite."""
        block, slots, _ = self._found[plane]
        pool, filled = block.pool, slots[positions]
        with self._cache_state.lock:
            pool.finite[filled] = finite
            pool.ready[filled] = pool.flight[filled] == self._number

    def finish(self) -> None:
        """Let others have what was filled."""
        with self._cache_state.lock:
            for (block, slots, _), missing in zip(self._found, self.missing, strict=True):
                if len(missing):
                    mine = slots[missing]
                    self._cache_state.detach(block.pool, mine[~block.pool.ready[mine]])
        self._flight.done = True

    def abandon(self) -> None:
        """Let nobody wait for what has not been filled. Its memory stays until `end`: a job may be writing to it.

        Takes no lock: the garbage collector may call this in whatever a thread is doing.
        """
        self._cache_state.dropped.append((self._number, self._pins, False))
        self._flight.done = True

    def is_waiting(self) -> bool:
        """Whether other claims still fill tiles of this one."""
        return not all(flight.done for flight in self.waits)

    def lacks(self) -> bool:
        """Whether a tile that another claim should have filled is not there."""
        return bool(self.waits) and any(
            not block.pool.ready[slots[~missing]].all() for block, slots, missing in self._found
        )


def _drop(flight: Flight, dropped: "deque[tuple[int, Pins, bool]]", number: int, pins: "Pins") -> None:
    """End a claim; called by the garbage collector in whatever the thread is doing, so it takes no lock."""
    dropped.append((number, pins, True))
    flight.done = True
