"""Where the time goes: seconds by stage of the way from a plan to the device."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..source.locks import ForkLock

__all__ = ["STAGES", "StageClock"]

STAGES = ("plan", "locate", "read", "decode", "assemble", "collate", "hand-over", "device")
"""Stages in the order in which a target goes through them.

plan: the Butler's answers to boxes and files. locate: files opened, their layout read. read: compressed bytes.
decode: pixels of whole tiles. assemble: crop, stitch, validity, policies. collate: one batch of tensors. hand-over:
what the loop waits for beyond that. device: the copy to the GPU and the transforms there.
"""


class StageClock:
    """Adds up seconds by stage, from any number of threads.

    The seconds of threads that work side by side add up: with two threads they can be twice the time that passed.
    It pickles as a new one.
    """

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._mine = threading.local()
        self._all: list[dict[str, float]] = []

    def __reduce__(self) -> tuple[type["StageClock"], tuple[()]]:
        return StageClock, ()

    def _of_thread(self) -> dict[str, float]:
        """Return the seconds of the calling thread, which no other thread writes."""
        found: dict[str, float] | None = getattr(self._mine, "seconds", None)
        if found is None:
            found = self._mine.seconds = dict.fromkeys(STAGES, 0.0)
            with self._lock:
                self._all.append(found)
        return found

    def add(self, stage: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self._of_thread()[stage] += seconds

    def spent(self) -> float:
        """Return the seconds that the calling thread has added so far, all stages together."""
        return sum(self._of_thread().values())

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    @contextmanager
    def rest(self, stage: str) -> Iterator[None]:
        """Add to a stage the seconds of the block that the calling thread adds to no other stage meanwhile."""
        start, before = time.perf_counter(), self.spent()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start - (self.spent() - before))

    def seconds(self) -> Mapping[str, float]:
        """Return the seconds of each of `STAGES`, in their order."""
        with self._lock:
            return {stage: sum(seconds[stage] for seconds in self._all) for stage in STAGES}

    def reset(self) -> None:
        """Begin again at zero."""
        with self._lock:
            for seconds in self._all:
                seconds.update(dict.fromkeys(STAGES, 0.0))
