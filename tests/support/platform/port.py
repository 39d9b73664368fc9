"""What the two ports of the front have in common: connections, the log, faults, and the loss of the network."""

import asyncio
import itertools
import random
import time
from abc import ABC, abstractmethod
from asyncio import StreamReader, StreamWriter
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import urlsplit

from .link import Connection, Link
from .messages import Answer, Message, read_message
from .settings import Counters, Request, Settings

__all__ = ["Port", "State"]

LONGEST_HANG = 120.0
LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please log in</body></html>"


class State:
    """Settings, log and connections of the front."""

    def __init__(self) -> None:
        self.link = Link()
        self.numbers = itertools.count(1)
        self.connections: dict[str, set[Connection]] = {"data": set(), "api": set()}
        self.in_flight = 0
        self._forget()

    def _forget(self) -> None:
        self.settings = Settings()
        self.log: list[Request] = []
        self.random = random.Random(0)
        self.faults: Counter[tuple[str, str]] = Counter()
        """Faults so far, by port and path."""
        self.calm = asyncio.Event()
        """Set when requests that hang should end."""
        self.away_until = 0.0
        self.peak_connections = len(self.connections["data"])
        self.peak_in_flight = self.in_flight

    def reset(self) -> None:
        """Return to the default settings and an empty log; end requests that hang."""
        self.calm.set()
        self.link.reset()
        self._forget()

    def change(self, changes: dict[str, Any]) -> None:
        """Change some settings."""
        self.settings = replace(self.settings, **changes)
        for port, names in (("data", {"fault", "fault_n"}), ("api", {"api_fault", "api_n"})):
            if names & changes.keys():
                for key in [key for key in self.faults if key[0] == port]:
                    del self.faults[key]
        if "away" in changes:
            self.away_until = time.monotonic() + self.settings.away
            if self.is_away:
                for connection in set().union(*self.connections.values()):
                    connection.abort()

    @property
    def is_away(self) -> bool:
        return time.monotonic() < self.away_until

    def counters(self) -> Counters:
        """Return the sums over the log."""
        data = [request for request in self.log if request.port == "data"]
        return Counters(
            data_requests=len(data),
            data_bytes=sum(request.bytes for request in data),
            data_connections=len({request.connection for request in data}),
            api_requests=len(self.log) - len(data),
            signatures=sum(request.port == "api" and request.path.endswith("/download") for request in self.log),
            peak_connections=self.peak_connections,
            peak_in_flight=self.peak_in_flight,
            statuses=dict(Counter(str(request.status) for request in self.log)),
        )

    def report(self) -> list[dict[str, Any]]:
        """Return the log for JSON."""
        return [asdict(request) for request in self.log]


class Port(ABC):
    """Serves connections of one kind."""

    kind: str

    def __init__(self, state: State) -> None:
        self.state = state

    @abstractmethod
    async def answer(self, message: Message, request: Request) -> Answer | None:
        """Return the answer, or None to close the connection without one."""

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Answer the requests of one connection until either side closes it."""
        state = self.state
        connection = Connection(next(state.numbers), writer, state.link)
        if state.is_away:
            connection.abort()
            return
        state.connections[self.kind].add(connection)
        state.peak_connections = max(state.peak_connections, len(state.connections["data"]))
        try:
            await asyncio.sleep(2 * state.settings.rtt)
            while await self._exchange(reader, connection):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed the connection
        finally:
            state.connections[self.kind].discard(connection)
            connection.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(self, reader: StreamReader, connection: Connection) -> bool:
        """Answer one request; return whether the connection stays open."""
        state = self.state
        message = await read_message(reader)
        began = time.monotonic()
        request = Request(
            time=time.time(),
            port=self.kind,
            connection=connection.number,
            method=message.method,
            path=message.path,
            query=urlsplit(message.target).query,
            headers=message.headers,
        )
        state.log.append(request)
        counted = self.kind == "data"
        state.in_flight += counted
        state.peak_in_flight = max(state.peak_in_flight, state.in_flight)
        try:
            await asyncio.sleep(state.settings.rtt)
            answer = await self.answer(message, request)
            if answer is None:
                return False
            body = answer.body[: len(answer.body) // 2] if answer.cut else answer.body
            request.status, request.bytes = answer.status, len(body)
            await connection.send(answer.head(), body, state.settings)
            request.seconds = time.monotonic() - began
            return not answer.cut and message.headers.get("connection", "").lower() != "close"
        finally:
            state.in_flight -= counted

    def next_fault(self, path: str) -> str:
        """Return the fault that this request meets, "" for none, and count it."""
        settings, data = self.state.settings, self.kind == "data"
        fault, limit = (settings.fault, settings.fault_n) if data else (settings.api_fault, settings.api_n)
        key = (self.kind, path if data else "")
        if not fault or 0 < limit <= self.state.faults[key]:
            return ""
        self.state.faults[key] += 1
        return fault

    async def fault_answer(self, fault: str) -> Answer | None:
        """Return the answer of a fault that has one of its own."""
        if fault == "close":
            return None
        if fault == "hang":
            with suppress(TimeoutError):
                await asyncio.wait_for(self.state.calm.wait(), LONGEST_HANG)
            return None
        if fault == "login":
            return Answer(200, LOGIN_PAGE, {"Content-Type": "text/html"})
        after = self.state.settings.retry_after
        body = b"<Error><Code>SlowDown</Code></Error>" if self.kind == "data" else b'{"detail":"fault"}'
        return Answer(int(fault), body, {"Retry-After": str(after)} if after else {})
