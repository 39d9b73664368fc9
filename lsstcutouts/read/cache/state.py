"""What one process holds of a cache, and what is done to it under its lock."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...errors import ConfigurationError
from .heap import trim_heap
from .watch import MemoryWatch

__all__ = ["Flight", "Sized", "State", "evicted", "free", "look_up", "produce", "wait"]

_MUCH = 64_000_000
"""Bytes dropped at once from which the C library is asked to give them back to the system."""


class Sized(Protocol):
    """What a cache can hold: anything that knows its bytes, which stay the same."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        ...


class Flight:
    """Entries that one thread is making; others wait for them."""

    __slots__ = ("done", "entries", "positions")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.positions: list[int] = []
        self.entries: dict[Hashable, Sized] = {}


@dataclass(slots=True)
class State:
    """Everything that belongs to one process."""

    pid: int
    max_bytes: int
    limit: int
    watch: MemoryWatch
    lock: threading.Lock = field(default_factory=threading.Lock)
    entries: OrderedDict[Hashable, Sized] = field(default_factory=OrderedDict)
    flights: dict[Hashable, Flight] = field(default_factory=dict)
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    waits: int = 0
    bytes: int = 0
    reserved: int = 0
    bytes_read: int = 0
    bytes_delivered: int = 0
    # A finaliser may release in the middle of a locked block of its own thread, so releasing takes no lock.
    released: deque[int] = field(default_factory=deque)
    said_short: bool = False
    said_crowded: bool = False

    @property
    def room(self) -> int:
        """Bytes that entries may take: what reservations leave of the limit."""
        return max(0, self.limit - self.reserved)

    def settle(self) -> None:
        """Take over what was released meanwhile; the lock must be held."""
        while self.released:
            self.reserved = max(0, self.reserved - self.released.popleft())


def produce[T: Sized](
    state: State,
    keys: Sequence[Hashable],
    missing: list[int],
    make: Callable[[list[int]], Sequence[T]],
    result: list[Any],
) -> tuple[int, list[tuple[int, Flight]]]:
    """Make and publish those missing entries that nobody makes yet; after an error or Ctrl-C let waiting threads go on.

    Returns
    -------
    made
        How many were made here.
    waiting
        The others, and who makes them: another thread, or an earlier place in the same list.
    """
    own = Flight()
    try:
        waiting = _claim(state, keys, missing, own, result)
        if own.positions:
            entries = make(own.positions)
            if len(entries) != len(own.positions):
                raise ConfigurationError(f"make returned {len(entries)} entries for {len(own.positions)} keys")
            for i, entry in zip(own.positions, entries, strict=True):
                own.entries[keys[i]] = result[i] = entry
    finally:
        if own.positions:
            _land(state, keys, own)
    return len(own.positions), waiting


def _claim(
    state: State, keys: Sequence[Hashable], missing: list[int], own: Flight, result: list[Any]
) -> list[tuple[int, Flight]]:
    """Divide missing keys into those to make here, which ``own`` takes, and those under way, which are returned."""
    waiting: list[tuple[int, Flight]] = []
    with state.lock:
        for i in missing:
            key = keys[i]
            entry, flight = state.entries.get(key), state.flights.get(key)
            if entry is not None:
                state.entries.move_to_end(key)
                result[i] = entry
            elif flight is not None and not flight.done.is_set():  # Ctrl-C can leave one behind that is done
                waiting.append((i, flight))
                state.waits += flight is not own
            else:
                own.positions.append(i)
                state.flights[key] = own
    return waiting


def _land(state: State, keys: Sequence[Hashable], own: Flight) -> None:
    """End a flight, whether it brought entries or not."""
    try:
        with state.lock:
            state.settle()
            wanted = [keys[i] for i in own.positions if state.flights.get(keys[i]) is own]  # none after `clear`
            room = state.room
            for key in wanted:
                del state.flights[key]
                if key in own.entries:
                    _insert(state, key, own.entries[key], room)
            dropped = evicted(state)
    finally:
        own.done.set()
    free(dropped)


def look_up(state: State, keys: Sequence[Hashable], total: int) -> tuple[list[Any], list[int]]:
    """Return the entries that are there, and the positions of the others. When all are there, that is counted."""
    entries, missing = state.entries, []
    touch = entries.move_to_end
    with state.lock:
        result = [entries.get(key) for key in keys]
        for i, entry in enumerate(result):
            if entry is None:
                missing.append(i)
            else:
                touch(keys[i])
        if not missing:
            state.hits += total
    return result, missing


def wait(keys: Sequence[Hashable], waiting: list[tuple[int, Flight]], result: list[Any]) -> list[int]:
    """Take over what others made; return the positions that they failed to make."""
    failed: list[int] = []
    for i, flight in waiting:
        flight.done.wait()
        entry = flight.entries.get(keys[i])
        if entry is None:
            failed.append(i)
        else:
            result[i] = entry
    return failed


def _insert(state: State, key: Hashable, entry: Sized, room: int) -> None:
    """Keep an entry as the most recently used, unless it alone exceeds what there is room for."""
    if entry.nbytes > room:
        return
    old = state.entries.pop(key, None)
    if old is not None:
        state.bytes -= old.nbytes
    state.entries[key] = entry
    state.bytes += entry.nbytes


def evicted(state: State) -> list[Sized]:
    """Take the least recently used entries out until the rest fits, and return them."""
    dropped: list[Sized] = []
    while state.bytes > state.room:
        _, entry = state.entries.popitem(last=False)
        state.bytes -= entry.nbytes
        dropped.append(entry)
    state.evictions += len(dropped)
    return dropped


def free(dropped: list[Sized]) -> None:
    """Let go of what was taken out; no lock may be held, since what an entry does at its end is its own affair."""
    if not dropped:
        return
    nbytes = sum(entry.nbytes for entry in dropped)
    dropped.clear()
    if nbytes >= _MUCH:
        trim_heap()
