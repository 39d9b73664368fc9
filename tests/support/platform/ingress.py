"""The port of the Butler server: what the ingress of a science platform checks and adds, and daf_butler's own server."""

import asyncio
import itertools
from dataclasses import replace

from .messages import MAX_HEAD, Answer, Message, json_answer, read_chunked
from .port import Port, State
from .settings import TOKEN, Request

__all__ = ["IngressPort"]

SERVER_TIMEOUT = 120.0
OPEN_NAMES = ("/butler.yaml", "/butler.json")
"""What everyone may read, besides ``/configs/``."""
HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "keep-alive"}
QUERY = "/v1/query/execute"
CHALLENGE = 'Bearer realm="127.0.0.1"'


class IngressPort(Port):
    """Passes requests on to the Butler server if their token is good, as nginx and Gafaelfawr do."""

    kind = "api"

    def __init__(self, state: State, server_port: int) -> None:
        """Pass on to the server at this port of 127.0.0.1."""
        super().__init__(state)
        self._server_port = server_port
        self._users = itertools.count(1)
        self._queries = 0

    async def answer(self, message: Message, request: Request) -> Answer | None:
        settings = self.state.settings
        if message.path.endswith(OPEN_NAMES) or "/configs/" in message.path:
            return await self._passed_on(message)
        fault = self.next_fault(message.path)
        request.fault = fault
        if fault and fault != "short":
            return await self.fault_answer(fault)
        refused = self._refused(message)
        if refused is not None:
            return refused
        if not message.path.endswith(QUERY):
            answer = await self._passed_on(message)
        elif 0 < settings.query_limit <= self._queries:
            detail = "User has too many queries running already. Wait for your existing queries to complete."
            return json_answer({"detail": detail}, 429, Retry_After=str(settings.query_retry_after))
        else:
            self._queries += 1
            try:
                await asyncio.sleep(settings.query_hold)
                answer = await self._passed_on(message)
            finally:
                self._queries -= 1
        return replace(answer, cut=fault == "short")

    def _refused(self, message: Message) -> Answer | None:
        kind, _, token = message.headers.get("authorization", "").partition(" ")
        if self.state.settings.token_revoked or kind.lower() != "bearer" or token != TOKEN:
            page = b"<html><head><title>401 Authorization Required</title></head></html>"
            challenge = f'{CHALLENGE}, error="invalid_token", error_description="Token is not valid"'
            return Answer(401, page, {"Content-Type": "text/html", "WWW-Authenticate": challenge})
        if self.state.settings.token_scope:
            text = "Token missing required scope"
            challenge = f'{CHALLENGE}, error="insufficient_scope", error_description="{text}", scope="read:image"'
            detail = [{"msg": text, "type": "insufficient_scope"}]
            return json_answer({"detail": detail}, 403, WWW_Authenticate=challenge)
        return None

    async def _passed_on(self, message: Message) -> Answer:
        """Return the server's answer."""
        try:
            async with asyncio.timeout(SERVER_TIMEOUT):
                return await self._server_answer(message)
        except TimeoutError:
            return Answer(504, b"<html>504 Gateway Time-out</html>")
        except (OSError, asyncio.IncompleteReadError):
            return Answer(502, b"<html>502 Bad Gateway</html>")

    async def _server_answer(self, message: Message) -> Answer:
        headers = {name: value for name, value in message.headers.items() if name not in HOP_HEADERS}
        # The server itself limits the queries of each user; `Settings.query_limit` is the only limit if all users differ.
        headers |= {"x-auth-request-user": f"user-{next(self._users)}", "x-auth-request-token": "gt-delegated.token"}
        headers |= {"connection": "close", "content-length": str(len(message.body))}
        lines = [f"{message.method} {message.target} HTTP/1.1", *(f"{n}: {v}" for n, v in headers.items())]
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server_port, limit=MAX_HEAD)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode("latin1") + message.body)
            await writer.drain()
            return await _read_answer(reader)
        finally:
            writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
    pairs = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]
    headers = {name: value for name, value in pairs if name.lower() not in HOP_HEADERS}
    chunked = any(name.lower() == "transfer-encoding" for name, _ in pairs)
    body = await (read_chunked(reader) if chunked else reader.read())
    return Answer(int(first.split(" ", 2)[1]), body, headers)
