"""A model of the network between a client and the platform: it sleeps and counts bytes, the kernel is not asked.

All connections share one rate. A new connection costs two round trips (TCP and TLS 1.3), an answer one. Each connection
starts slowly (RFC 6928: 10 segments, doubled each round trip) and does so again after a second without data.
"""

import asyncio
import time
from asyncio import StreamWriter

from .settings import Settings

__all__ = ["Connection", "Link"]

FIRST_WINDOW = 10 * 1448
LARGEST_WINDOW = 16 << 20
IDLE_SECONDS = 1.0
PIECE = 1 << 14
"""Bytes that one connection sends before the others have their turn."""
SHORTEST_SLEEP = 0.002
"""Seconds; shorter waits are added to the next, since timers are not more exact."""


class Link:
    """The rate that all connections share."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def reset(self) -> None:
        """Forget the bytes that were to pass at an earlier rate."""
        self._free_at = 0.0

    async def pass_through(self, size: int, rate: float) -> None:
        """Wait until so many bytes have passed at a rate in bytes/s."""
        now = time.monotonic()
        self._free_at = max(now, self._free_at) + size / rate
        if self._free_at - now > SHORTEST_SLEEP:
            await asyncio.sleep(self._free_at - now)


class Connection:
    """One connection of a client."""

    def __init__(self, number: int, writer: StreamWriter, link: Link) -> None:
        self.number, self._writer, self._link = number, writer, link
        self._window, self._last_sent = FIRST_WINDOW, time.monotonic()

    def abort(self) -> None:
        """Reset the connection; what was not sent is lost."""
        self._writer.transport.abort()

    def close(self) -> None:
        """Close the connection after what was written."""
        self._writer.close()

    async def send(self, head: bytes, body: bytes | memoryview, settings: Settings) -> None:
        """Send an answer as it would arrive over the network of these settings."""
        self._writer.write(head)
        if not settings.rate and not (settings.slow_start and settings.rtt):
            self._writer.write(body)
            await self._writer.drain()
            return
        if time.monotonic() - self._last_sent > IDLE_SECONDS:
            self._window = FIRST_WINDOW
        slow = settings.slow_start and settings.rtt > 0
        view, position = memoryview(body), 0
        while position < len(view):
            began = time.monotonic()
            stop = min(len(view), position + self._window) if slow else len(view)
            await self._send_pieces(view[position:stop], settings.rate)
            position = stop
            if slow and position < len(view):
                self._window = min(2 * self._window, LARGEST_WINDOW)
                await asyncio.sleep(max(0.0, began + settings.rtt - time.monotonic()))
        await self._writer.drain()
        self._last_sent = time.monotonic()

    async def _send_pieces(self, view: memoryview, rate: float) -> None:
        for start in range(0, len(view), PIECE):
            piece = view[start : start + PIECE]
            if rate:
                await self._link.pass_through(len(piece), rate)
            self._writer.write(piece)
            await self._writer.drain()
