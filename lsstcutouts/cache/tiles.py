"""The cache of decoded tiles: one per process, bounded in bytes, shared by all threads."""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.memory import Memory

from .memory import MemoryLimits, check_budget, memory_limits, resolve_budget

__all__ = ["CacheStats", "TileCache"]

_LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
"""How often the machine's memory is looked at while the cache grows: one look costs 0.1 to 0.3 ms."""

_FLOOR_SHARE, _FLOOR_MOST = 0.05, 1_000_000_000
"""Available memory below which the cache shrinks: a share of the whole limit, and bytes that are enough anywhere."""

type Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache has done and holds.

    Attributes
    ----------
    hits
        Tile requests that were served without a decode, those that waited for another thread's decode included.
    misses
        Tile requests that were decoded.
    evictions
        Arrays dropped to stay within the budget.
    waits
        Arrays that another thread was decoding when they were asked for.
    entries, bytes
        What is held now.
    max_bytes
        The budget now.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    waits: int = 0
    entries: int = 0
    bytes: int = 0
    max_bytes: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of tile requests served without a decode; 0 before the first."""
        requests = self.hits + self.misses
        return self.hits / requests if requests else 0.0

    def __sub__(self, earlier: "CacheStats") -> "CacheStats":
        """Return what happened since ``earlier``; what is held stays as it is now."""
        return CacheStats(
            self.hits - earlier.hits,
            self.misses - earlier.misses,
            self.evictions - earlier.evictions,
            self.waits - earlier.waits,
            self.entries,
            self.bytes,
            self.max_bytes,
        )


class _Flight:
    """Arrays that one thread is making; others wait for them."""

    __slots__ = ("arrays", "done", "positions")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.positions: list[int] = []
        self.arrays: dict[Hashable, Array] = {}


@dataclass(slots=True)
class _State:
    """Everything that belongs to one process."""

    pid: int
    max_bytes: int
    limit: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    entries: OrderedDict[Hashable, Array] = field(default_factory=OrderedDict)
    flights: dict[Hashable, _Flight] = field(default_factory=dict)
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    waits: int = 0
    bytes: int = 0
    next_look: float = 0.0
    said: bool = False


class TileCache:
    """Least recently used arrays, bounded in bytes. Thread-safe; simultaneous requests decode once.

    It pickles as its settings, empty, and starts empty in a forked process: arrays are cheaper to decode than to
    send, and a lock that was held during a fork would stay locked.

    Parameters
    ----------
    max_bytes
        Budget: whole bytes, an amount such as ``"2 GB"``, a share of the available memory as a float in (0, 1], or
        ``"auto"``, see `resolve_budget`. It is worked out at the first use, in the process that uses it.
    limits
        Says how much memory there is. While available memory is short the cache shrinks, and says so once in the log.

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
        self._states: dict[int, _State] = {}
        self.memory = Memory()
        """What entries may be made of: the memory of those that were dropped serves the next ones."""

    def get(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """Return the array of a key, made by ``make`` if it is not there."""
        return self.get_many([key], lambda _: [make()])[0]

    def get_many(
        self,
        keys: Sequence[Hashable],
        make: Callable[[list[int]], Sequence[Array]],
        requests: Sequence[int] | None = None,
    ) -> list[Array]:
        """Return the arrays of several keys, in their order.

        Parameters
        ----------
        keys
            What names an array: file, plane, unit.
        make
            Called without any lock held, with the positions of the keys that neither the cache nor another thread
            has; returns their arrays. Called a second time only for keys whose making failed in another thread.
            What it raises goes through to the caller, and nothing of it is kept.
        requests
            How many tile requests each key stands for in the statistics; 1 each by default.
        """
        state = self._state()
        total = len(keys) if requests is None else sum(requests)
        result, missing = _look_up(state, keys, total)
        if missing:
            made = 0
            while missing:
                own, waiting = _claim(state, keys, missing, result)
                if own.positions:
                    self._produce(state, keys, make, own, result)
                    made += len(own.positions)
                missing = _wait(keys, waiting, result)
            with state.lock:
                state.hits += total - made
                state.misses += made
        return result

    def stats(self) -> CacheStats:
        """Return what the cache has done in this process, and holds."""
        state = self._state()
        with state.lock:
            return CacheStats(
                state.hits,
                state.misses,
                state.evictions,
                state.waits,
                len(state.entries),
                state.bytes,
                state.max_bytes,
            )

    def resize(self, max_bytes: float | str) -> None:
        """Give the cache another budget; what exceeds it is dropped.

        Raises
        ------
        ConfigurationError
            The budget cannot be understood.
        """
        check_budget(max_bytes)
        self._rebudget(max_bytes, self._processes)

    def share_among(self, processes: int) -> None:
        """Take only this process's part of the budget, of so many processes that each have this cache.

        Raises
        ------
        ConfigurationError
            Fewer than one process.
        """
        if processes < 1:
            raise ConfigurationError(f"a cache shared among {processes} processes")
        if processes != self._processes:
            self._rebudget(self._setting, processes)

    def clear(self) -> None:
        """Drop every array; the statistics go on."""
        state = self._state()
        with state.lock:
            dropped = list(state.entries.values())
            state.entries.clear()
            state.bytes = 0
        del dropped

    def __len__(self) -> int:
        return len(self._state().entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._state().entries

    def __getstate__(self) -> dict[str, Any]:
        return {"max_bytes": self._setting, "limits": self._limits, "processes": self._processes}

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self._setting, self._limits = settings["max_bytes"], settings["limits"]
        self._processes, self._states = settings["processes"], {}
        self.memory = Memory()

    def __repr__(self) -> str:
        return f"TileCache({self._setting!r})"

    def _state(self) -> _State:
        """Return this process's arrays and counters, made anew after a fork."""
        pid = os.getpid()
        state = self._states.get(pid)
        if state is None:
            budget = resolve_budget(self._setting, self._processes, limits=self._limits())
            state = self._states.setdefault(pid, _State(pid, budget, budget))
            for other in [p for p in self._states if p != pid]:
                self._states.pop(other, None)
        return state

    def _rebudget(self, setting: float | str, processes: int) -> None:
        """Take over settings and, where the cache is in use, apply them."""
        state = self._states.get(os.getpid())
        budget = 0 if state is None else resolve_budget(setting, processes, limits=self._limits())
        self._setting, self._processes = setting, processes
        if state is None:
            return
        with state.lock:
            state.max_bytes = state.limit = budget
            dropped = _evicted(state)
        del dropped

    def _produce(
        self,
        state: _State,
        keys: Sequence[Hashable],
        make: Callable[[list[int]], Sequence[Array]],
        own: _Flight,
        result: list[Any],
    ) -> None:
        """Make arrays and publish them; on failure let the waiting threads go on."""
        made: dict[Hashable, Array] = {}
        try:
            arrays = make(own.positions)
            if len(arrays) != len(own.positions):
                raise ConfigurationError(f"make returned {len(arrays)} arrays for {len(own.positions)} keys")
            for i, array in zip(own.positions, arrays, strict=True):
                made[keys[i]] = result[i] = array
        finally:
            self._land(state, keys, own, made)

    def _land(self, state: _State, keys: Sequence[Hashable], own: _Flight, made: dict[Hashable, Array]) -> None:
        """End a flight, whether it brought arrays or not."""
        own.arrays = made
        try:
            self._watch_memory(state)
        finally:
            # Whatever goes wrong in looking at the memory, no other thread waits for ever.
            with state.lock:
                for i in own.positions:
                    del state.flights[keys[i]]
                for key, array in made.items():
                    _insert(state, key, array)
                dropped = _evicted(state)
            own.done.set()
            # Freed here, outside the lock.
            del dropped

    def _watch_memory(self, state: _State) -> None:
        """Lower the limit while memory is short, and lift it again."""
        now = time.monotonic()
        if now < state.next_look:
            return
        state.next_look = now + _LOOK_SECONDS
        limits = self._limits()
        floor = min(_FLOOR_MOST, int(_FLOOR_SHARE * limits.total))
        with state.lock:
            if limits.available < floor:
                state.limit = max(0, min(state.bytes, state.limit) - (floor - limits.available))
            elif limits.available > 2 * floor:
                state.limit = state.max_bytes
            tell = state.limit < state.max_bytes and not state.said
            state.said = state.said or tell
        if tell:
            _LOG.warning(
                "memory is short: %.1f GB available of %.1f GB (limited by the %s); the tile cache shrinks to %.2f GB "
                "until there is more. A smaller cache_bytes avoids this",
                limits.available / 1e9,
                limits.total / 1e9,
                limits.limited_by,
                state.limit / 1e9,
            )


def _look_up(state: _State, keys: Sequence[Hashable], total: int) -> tuple[list[Any], list[int]]:
    """Return the arrays that are there, and the positions of the others. When all are there, that is counted."""
    entries, missing = state.entries, []
    touch = entries.move_to_end
    with state.lock:
        result = [entries.get(key) for key in keys]
        for i, array in enumerate(result):
            if array is None:
                missing.append(i)
            else:
                touch(keys[i])
        if not missing:
            state.hits += total
    return result, missing


def _claim(
    state: _State, keys: Sequence[Hashable], missing: list[int], result: list[Any]
) -> tuple[_Flight, list[tuple[int, _Flight]]]:
    """Divide missing keys into those to make here and those under way: elsewhere, or earlier in the same list."""
    own = _Flight()
    waiting: list[tuple[int, _Flight]] = []
    with state.lock:
        for i in missing:
            key = keys[i]
            array = state.entries.get(key)
            if array is not None:
                state.entries.move_to_end(key)
                result[i] = array
            elif key in state.flights:
                flight = state.flights[key]
                waiting.append((i, flight))
                state.waits += flight is not own
            else:
                state.flights[key] = own
                own.positions.append(i)
    return own, waiting


def _wait(keys: Sequence[Hashable], waiting: list[tuple[int, _Flight]], result: list[Any]) -> list[int]:
    """Take over what others made; return the positions that they failed to make."""
    failed: list[int] = []
    for i, flight in waiting:
        flight.done.wait()
        array = flight.arrays.get(keys[i])
        if array is None:
            failed.append(i)
        else:
            result[i] = array
    return failed


def _insert(state: _State, key: Hashable, array: Array) -> None:
    """Keep an array as the most recently used, unless it alone exceeds the limit."""
    if array.nbytes > state.limit:
        return
    old = state.entries.pop(key, None)
    if old is not None:
        state.bytes -= old.nbytes
    state.entries[key] = array
    state.bytes += array.nbytes


def _evicted(state: _State) -> list[Array]:
    """Take the least recently used arrays out until the rest fits, and return them."""
    dropped: list[Array] = []
    while state.bytes > state.limit:
        _, array = state.entries.popitem(last=False)
        state.bytes -= array.nbytes
        dropped.append(array)
    state.evictions += len(dropped)
    return dropped
