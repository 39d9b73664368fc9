"""The process in front of the platform: an S3 store in memory, and the ports that clients and the test process use.

Its argument is the port of the Butler server. It prints the ports as one line of JSON when it is ready.
"""

import asyncio
import json
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from .ingress import IngressPort
from .messages import MAX_HEAD, json_answer, read_message
from .objects import ObjectPort
from .parent import end_with_parent
from .port import State

HOST = "127.0.0.1"


class ControlPort:
    """Lets the test process change settings and read the log."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            message = await read_message(reader)
            answer = json_answer(self._do(message.path, message.body), Connection="close")
            writer.write(answer.head() + answer.body)
            await writer.drain()
        writer.close()

    def _do(self, path: str, body: bytes) -> Any:
        match path:
            case "/settings":
                self._state.change(json.loads(body))
            case "/reset":
                self._state.reset()
            case "/log":
                return self._state.report()
            case "/counters":
                return asdict(self._state.counters())
        return asdict(self._state.settings)


async def main(server_port: int) -> None:
    """Serve until the parent ends."""
    store = ThreadedMotoServer(HOST, 0, verbose=False)
    store.start()
    store_port = store.get_host_and_port()[1]
    state = State()
    handlers = {
        "data": ObjectPort(state, f"http://{HOST}:{store_port}").serve,
        "api": IngressPort(state, server_port).serve,
        "control": ControlPort(state).serve,
    }
    ports = {"store": store_port}
    servers = []
    for name, serve in handlers.items():
        servers.append(await asyncio.start_server(serve, HOST, 0, limit=MAX_HEAD, backlog=1024))
        ports[name] = servers[-1].sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(main(int(sys.argv[1])))
