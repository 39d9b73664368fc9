"""What one process holds of a cache, and what is done to it under its lock."""

import threading
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .slots import Slots
from .watch import MemoryWatch

__all__ = ["Block", "Flight", "State", "Wanted"]

type Integers = NDArray[np.int64]

_SLAB = 1 << 22
"""Bytes of what slots are cut from, 46 tiles of DP2; less where the budget is small."""


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """Tiles of one plane of a file.

    Attributes
    ----------
    key
        Names the plane.
    tiles
        ``(k,)`` numbers, each once.
    rows
        ``(k,)`` how many rows of each are needed, from its first.
    count
        Tiles of the plane.
    nbytes
        Bytes of a whole tile.
    requests
        How many tile requests this stands for in the statistics.
    """

    key: Hashable
    tiles: Integers
    rows: Integers
    count: int
    nbytes: int
    requests: int


class Block:
    """Where the tiles of one plane are: ``slots`` by their number, -1 for those that are not in the cache."""

    __slots__ = ("held", "key", "number", "pool", "slots")

    def __init__(self, key: Hashable, number: int, count: int, pool: Slots) -> None:
        self.key, self.number, self.pool = key, number, pool
        self.slots = np.full(count, -1, np.int64)
        self.held = 0


class Flight:
    """A claim as others see it: whether it has ended, with its tiles or without."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False


@dataclass(slots=True)
class State:
    """Everything that belongs to one process."""

    pid: int
    max_bytes: int
    limit: int
    watch: MemoryWatch
    lock: threading.Lock = field(default_factory=threading.Lock)
    pools: dict[int, Slots] = field(default_factory=dict)
    blocks: dict[Hashable, Block] = field(default_factory=dict)
    numbers: dict[int, Block] = field(default_factory=dict)
    flights: dict[int, Flight] = field(default_factory=dict)
    clock: int = 0
    blocks_made: int = 0
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
    dropped: deque[tuple[int, list[tuple[Slots, Integers]], bool]] = field(default_factory=deque)
    said_short: bool = False
    said_crowded: bool = False

    @property
    def room(self) -> int:
        """Bytes that slots may take: what reservations leave of the limit."""
        return max(0, self.limit - self.reserved)

    @property
    def entries(self) -> int:
        """Number of tiles that are there."""
        return sum(int((pool.ready & (pool.block >= 0)).sum()) for pool in self.pools.values())

    def settle(self) -> None:
        """Take over what was released meanwhile, and give back what exceeds the room; the lock must be held."""
        while self.released:
            self.reserved = max(0, self.reserved - self.released.popleft())
        while self.dropped:
            number, held, ended = self.dropped.popleft()
            for pool, slots in held:
                if ended:
                    pool.pins[slots] -= 1
                # What a claim has not filled nobody is to wait for.
                self.detach(pool, slots[(pool.flight[slots] == number) & ~pool.ready[slots]])
            if ended:
                self.flights.pop(number, None)
        self.shrink()

    def shrink(self) -> None:
        """Give slabs back until the rest fits, those first that have not been used for longest."""
        while self.bytes > self.room and (oldest := self._oldest(self.pools.values())) is not None:
            self.drop(*oldest)

    def _oldest(self, pools: Iterable[Slots]) -> tuple[Slots, int] | None:
        """Return the slab that has not been used for longest, of those that no claim holds."""
        found = [(*slab, pool) for pool in pools if (slab := pool.oldest_slab()) is not None]
        if not found:
            return None
        _, number, pool = min(found, key=lambda slab: slab[0])
        return pool, number

    def drop(self, pool: Slots, number: int) -> None:
        """Give a slab back, with what is in it."""
        slots = pool.of_slab(number)
        self.evictions += int((pool.block[slots] >= 0).sum())
        self.detach(pool, slots)
        pool.drop_slab(number)
        self.bytes -= pool.slab_bytes

    def detach(self, pool: Slots, slots: Integers) -> None:
        """Let nobody find what is in slots."""
        slots = slots[pool.block[slots] >= 0]
        if not len(slots):
            return
        for number in np.unique(pool.block[slots]).tolist():
            block = self.numbers[number]
            mine = slots[pool.block[slots] == number]
            block.slots[pool.tile[mine]] = -1
            block.held -= len(mine)
            if not block.held:
                del self.numbers[number]
                if self.blocks.get(block.key) is block:
                    del self.blocks[block.key]
        pool.empty(slots)

    def absent(self, wanted: Wanted) -> Integers:
        """Return the positions of the tiles that are not here, or not with all rows, ``(a,)``; nothing changes."""
        if (block := self.blocks.get(wanted.key)) is None:
            return np.arange(len(wanted.tiles))
        slots = block.slots[wanted.tiles]
        return np.flatnonzero((slots < 0) | (block.pool.rows[slots] < wanted.rows))

    def claim(self, wanted: Sequence[Wanted]) -> tuple[int, list[tuple[Block, Integers, NDArray[np.bool_]]]]:
        """Find tiles and give empty slots to those that are not there; every slot is pinned.

        Returns
        -------
        number
            Number of the claim, by which slots name it.
        found
            Of each plane its block, the slots of the tiles ``(k,)``, and which of them are to be filled, ``(k,)`` bool.
        """
        self.clock += 1
        blocks = [self._block(one) for one in wanted]
        slots = [block.slots[one.tiles] for one, block in zip(wanted, blocks, strict=True)]
        missing: dict[int, NDArray[np.bool_]] = {}
        members: dict[Slots, list[int]] = {}
        for i, block in enumerate(blocks):
            members.setdefault(block.pool, []).append(i)
        pinned: list[tuple[Slots, Integers]] = []
        need: dict[Slots, int] = {}
        taken: dict[Slots, Integers] = {}
        try:
            for pool, of in members.items():
                every = np.concatenate([slots[i] for i in of])
                gone = every < 0
                if not gone.all():
                    gone |= pool.rows[every] < np.concatenate([wanted[i].rows for i in of])
                    there = every[~gone]
                    pool.pins[there] += 1
                    pinned.append((pool, there))
                    pool.used[there] = self.clock
                missing.update(zip(of, np.split(gone, np.cumsum([len(slots[i]) for i in of[:-1]])), strict=True))
                need[pool] = int(gone.sum())
            for pool, count in need.items():
                if count:
                    taken[pool] = new = self._take(pool, count)
                    pool.pins[new] += 1  # the next size may take slabs away
                    pinned.append((pool, new))
        except BaseException:  # no memory, or Ctrl-C: nothing may stay pinned for ever; it is raised again
            for pool, held in pinned:
                pool.pins[held] -= 1
            raise
        for i, one in enumerate(wanted):
            if not missing[i].any():
                continue
            block, pool, tiles = blocks[i], blocks[i].pool, one.tiles[missing[i]]
            new, taken[pool] = taken[pool][: len(tiles)], taken[pool][len(tiles) :]
            if block.held and (shallow := block.slots[tiles]).max() >= 0:
                self.detach(pool, shallow[shallow >= 0])
            self.blocks[block.key] = self.numbers[block.number] = block
            block.slots[tiles] = slots[i][missing[i]] = new
            block.held += len(tiles)
            pool.block[new], pool.tile[new], pool.rows[new] = block.number, tiles, one.rows[missing[i]]
            pool.used[new] = pool.flight[new] = self.clock
            pool.ready[new] = False
        return self.clock, [(block, slots[i], missing[i]) for i, block in enumerate(blocks)]

    def _block(self, wanted: Wanted) -> Block:
        """Return the block of a plane, a new one if nothing of it is there."""
        block = self.blocks.get(wanted.key)
        if block is None or len(block.slots) != wanted.count or block.pool.nbytes != wanted.nbytes:
            pool = self.pools.get(wanted.nbytes)
            if pool is None:
                pool = self.pools[wanted.nbytes] = Slots(wanted.nbytes, min(_SLAB, self.max_bytes // 32))
            self.blocks_made += 1
            block = Block(wanted.key, self.blocks_made, wanted.count, pool)
        return block

    def _take(self, pool: Slots, count: int) -> Integers:
        """Return empty slots: new ones while there is room, then those that have not been used for longest."""
        while True:
            idle = pool.idle()
            if int((pool.used[idle] < 0).sum()) >= count:
                break
            if self.bytes + pool.slab_bytes > self.room:
                if (other := self._waiting_elsewhere(pool, idle, count)) is not None:
                    self.drop(*other)
                    continue
                if len(idle) >= count:
                    break
                # A batch may hold more than there is room for until it ends, rather than fail.
            pool.add_slab()
            self.bytes += pool.slab_bytes
        slots: Integers = np.sort(idle[np.argpartition(pool.used[idle], count - 1)[:count]])
        self.evictions += int((pool.block[slots] >= 0).sum())
        self.detach(pool, slots)
        return slots

    def _waiting_elsewhere(self, pool: Slots, idle: Integers, count: int) -> tuple[Slots, int] | None:
        """Return a slab of another size that has waited for longer than the slots of this one that would be emptied."""
        oldest = self._oldest([other for other in self.pools.values() if other is not pool])
        if oldest is None or len(idle) < count:
            return oldest
        last_used = np.partition(pool.used[idle], count - 1)[count - 1]
        return oldest if oldest[0].used[oldest[0].of_slab(oldest[1])].max() < last_used else None
