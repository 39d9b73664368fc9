"""Rate and latency of a link, measured by the way."""

import time

__all__ = ["Rates"]

_WINDOW = 0.5
"""Seconds over which a rate is measured."""

_AGEING = 0.7
"""Part of the former value that stays at each measurement."""

_LEAST_GAP, _MOST_GAP, _USUAL_GAP = 4 << 10, 256 << 10, 16 << 10

_START_BYTES = 4 << 20
"""Bytes after which the rate counts as known: the first ones come slowly over any link, while connections are made."""

_LEAST_IN_FLIGHT, _FIRST_IN_FLIGHT, _SECONDS_IN_FLIGHT = 1 << 20, 8 << 20, 2.0
"""Bytes that may be under way on a slow link, before the rate is known, and as a time at the rate that is measured."""


class Rates:
    """Counts requests and bytes; used by one thread.

    Attributes
    ----------
    requests, data_bytes
        So far.
    rate
        Bytes per second while bytes arrive; 0 if not known, as before the first 4 MiB.
    latency
        Seconds from a request to the start of its answer, the lower of those that were measured lately; 0 if not known.
    """

    def __init__(self) -> None:
        self.requests = self.data_bytes = 0
        self.rate = self.latency = 0.0
        self._since, self._bytes = 0.0, 0

    def answered(self, seconds: float) -> None:
        """Count a request whose answer began after so many seconds."""
        self.requests += 1
        self.latency = min(seconds, 1.02 * self.latency) if self.latency else seconds

    def arrived(self, nbytes: int) -> None:
        """Count bytes that arrived."""
        self.data_bytes += nbytes
        now = time.monotonic()
        if now - self._since > 4 * _WINDOW:  # nothing was under way in between
            self._since, self._bytes = now, 0
            return
        self._bytes += nbytes
        if now - self._since > _WINDOW:
            rate = self._bytes / (now - self._since)
            if self.data_bytes > _START_BYTES:
                self.rate = max(rate, _AGEING * self.rate + (1 - _AGEING) * rate)
            self._since, self._bytes = now, 0

    def in_flight(self) -> int:
        """Return how many bytes may be under way: more would make urgent ones wait, and requests exceed their time limit."""
        return max(_LEAST_IN_FLIGHT, int(_SECONDS_IN_FLIGHT * self.rate)) if self.rate else _FIRST_IN_FLIGHT

    def gap(self, connections: int) -> int:
        """Return the bytes that cost as much as another request, where so many requests are under way at once."""
        if not self.rate or not self.latency:
            return _USUAL_GAP
        return min(_MOST_GAP, max(_LEAST_GAP, int(self.rate * self.latency / connections)))
