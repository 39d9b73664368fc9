"""The cache of decoded tiles: one per process, bounded in bytes, shared by all threads."""

import logging
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

from ...errors import ConfigurationError, MemoryBudgetError
from ...fits.memory import Memory
from .budget import check_budget, resolve_budget, shown_bytes
from .limits import MemoryLimits, memory_limits
from .state import Sized, State, evicted, free, look_up, produce, wait
from .stats import CacheStats
from .watch import MemoryWatch, Room

__all__ = ["Sized", "TileCache"]

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
        ``"auto"``, see `resolve_budget`. It is worked out at the first use, in the process that uses it.
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
        self.memory = Memory()
        """What entries may be made of: the memory of those that were dropped serves the next ones."""

    def get[T: Sized](self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the entry of a key, made by ``make`` if it is not there."""
        return self.get_many([key], lambda _: [make()])[0]

    def get_many[T: Sized](
        self,
        keys: Sequence[Hashable],
        make: Callable[[list[int]], Sequence[T]],
        requests: Sequence[int] | None = None,
    ) -> list[T]:
        """Return the entries of several keys, in their order.

        Parameters
        ----------
        keys
            What names an entry: file, plane, unit.
        make
            Called without any lock held, with the positions of the keys that neither the cache nor another thread
            has; returns their entries. Called a second time only for keys whose making failed in another thread.
            What it raises goes through to the caller, and nothing of it is kept.
        requests
            How many tile requests each key stands for in the statistics; 1 each by default.
        """
        state = self._state()
        self._watch(state)
        total = len(keys) if requests is None else sum(requests)
        result, missing = look_up(state, keys, total)
        if missing:
            made = 0
            while missing:
                here, waiting = produce(state, keys, missing, make, result)
                made += here
                missing = wait(keys, waiting, result)
            with state.lock:
                state.hits += total - made
                state.misses += made
        return result

    def reserve(self, nbytes: int) -> None:
        """Take bytes of the budget for something beside the entries, a batch under way for example.

        Entries are dropped to make room. When reservations alone exceed the budget nothing fails: no entry is kept,
        and that is said once in the log. Everything that is reserved must be released, in the same process.
        """
        state = self._state()
        self._watch(state)
        with state.lock:
            state.settle()
            state.reserved += nbytes
            dropped = evicted(state)
            tell = state.reserved > state.max_bytes and not state.said_crowded
            state.said_crowded = state.said_crowded or tell
        free(dropped)
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
                entries=len(state.entries),
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

    def clear(self) -> None:
        """Drop every entry, those under way as well; the statistics go on, and the memory waits for the next entries."""
        state = self._state()
        with state.lock:
            dropped = list(state.entries.values())
            state.entries.clear()
            state.flights.clear()
            state.bytes = 0
        free(dropped)

    def __len__(self) -> int:
        return len(self._state().entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._state().entries

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
        self.memory = Memory()

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
            state.settle()
            state.max_bytes = state.limit = budget
            dropped = evicted(state)
        if dropped:
            free(dropped)
            self.memory.trim()

    def _look(self, state: State) -> tuple[Room, int]:
        """Look at the memory; return what was found, and what the cache accounts for."""
        with state.lock:
            state.settle()
            held, settled = state.bytes + state.reserved, state.misses > 0
        # Entries of one size can be dropped for those of another, whose memory they do not serve.
        if held + self.memory.idle > state.max_bytes:
            self.memory.trim()
        return state.watch.look(held, state.max_bytes, settled=settled, idle=self.memory.idle), held

    def _watch(self, state: State) -> None:
        """Lower the limit while memory is short, and lift it again; hits alone come by here too."""
        if not state.watch.due(state.bytes + state.reserved + self.memory.idle):
            return
        room, held = self._look(state)
        if room.nbytes < 0 and self.memory.idle:
            self.memory.trim()
            room, held = self._look(state)
        with state.lock:
            if room.nbytes < 0:
                state.limit = max(0, min(held, state.limit) + room.nbytes)
            else:
                state.limit = min(state.max_bytes, max(state.limit, held + room.nbytes))
            dropped = evicted(state)
            tell = room.nbytes < 0 and not state.said_short
            state.said_short = state.said_short or tell
        free(dropped)
        if room.nbytes < 0:
            self.memory.trim()
        if tell:
            _LOG.warning(
                "memory is low: %s. The limit of the tile cache, including the batches that are being read, decreases from %s "
                "to %s until memory is available. Use a smaller cache_bytes or batch_size",
                room.why,
                shown_bytes(held),
                shown_bytes(state.limit),
            )
