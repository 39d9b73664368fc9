"""A small real HTTP server for tests: files with byte ranges, and every way of not answering well."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from lsstcutouts.source.web.process import web_of_process

DATA = bytes(range(256)) * 400
"""Content of a file that tests read."""


class FileServer(ThreadingHTTPServer):
    """Serves the files under ``root``. A first folder of the path is a fault: a status, or a name of `Handler.faults`.

    ``/503/x`` always answers 503; ``/503x2/x`` does so twice and then serves ``x``. ``requests`` counts what was asked.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.requests: list[tuple[str, str, str]] = []
        """Method, path and Range header of each."""
        self.tokens: list[str] = []
        """The Authorization header of each."""
        self.given_up = threading.Event()
        """Set when handlers that wait should stop waiting."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_OPTIONS(self) -> None:
        self._answer(200)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _serve(self, body: bool) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append((self.command, path, self.headers.get("Range", "")))
        self.server.tokens.append(self.headers.get("Authorization", ""))
        fault, _, rest = path.lstrip("/").partition("/")
        name, _, times = fault.partition("x")
        before = sum(p == path for _, p, _ in self.server.requests)
        if times.isdigit() and before > int(times):
            name, path = "", "/" + rest
        if name.isdigit():
            return self._answer(int(name), b"<html>no</html>" if body else b"")
        if fault in self.faults:
            path = "/" + rest
            return self.faults[fault](self, (self.server.root / rest).read_bytes())
        file = self.server.root / path.lstrip("/")
        if not file.is_file():
            return self._answer(404)
        return self._range(file.read_bytes(), body)

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _wanted(self, data: bytes) -> tuple[int, int] | None:
        """Return the first byte and the byte after the last, None where the whole file is asked for."""
        text = self.headers.get("Range", "")
        if not text.startswith("bytes="):
            return None
        first, _, last = text.removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1 if last else len(data), len(data))

    def _range(self, data: bytes, body: bool = True) -> None:
        wanted = self._wanted(data)
        if wanted is None:
            size = str(len(data))
            return self._answer(200, data if body else b"", Content_Length=size, Accept_Ranges="bytes")
        if wanted[0] >= len(data):
            return self._answer(416, Content_Range=f"bytes */{len(data)}")
        return self._part(data, *wanted, sent=data[slice(*wanted)])

    def _part(self, data: bytes, first: int, stop: int, *, sent: bytes, said: str = "") -> None:
        where = said or f"bytes {first}-{stop - 1}/{len(data)}"
        self.send_response(206)
        self.send_header("Content-Range", where)
        self.send_header("Content-Length", str(stop - first))
        self.end_headers()
        self.wfile.write(sent)

    def _whole(self, data: bytes) -> None:
        """Promise byte ranges and send the whole file."""
        self._answer(200, data, Accept_Ranges="bytes")

    def _cut(self, data: bytes) -> None:
        """Close the connection in the middle of the body, of any range but the first byte."""
        first, stop = self._wanted(data) or (0, len(data))
        self._part(data, first, stop, sent=data[first : first + max(1, (stop - first) // 2)])
        self.close_connection = True

    def _slow(self, _: bytes) -> None:
        """Answer after the client has given up."""
        self.server.given_up.wait(10)

    def _drip(self, data: bytes) -> None:
        """Send a byte at a time, each well within the time for one."""
        first, stop = self._wanted(data) or (0, len(data))
        self._part(data, first, stop, sent=b"")
        for at in range(first, stop):
            self.wfile.write(data[at : at + 1])
            self.wfile.flush()
            time.sleep(0.05)

    def _closed(self, _: bytes) -> None:
        """Close the connection without an answer."""
        self.close_connection = True

    def _elsewhere(self, data: bytes) -> None:
        """Send another range than the one that was asked for."""
        self._part(data, 0, 1, sent=data[:1], said=f"bytes 5-5/{len(data)}")

    def _endless(self, data: bytes) -> None:
        """Send a range of a file of unknown size."""
        self._part(data, 0, 1, sent=data[:1], said="bytes 0-0/*")

    def _grown(self, data: bytes) -> None:
        """Have one byte more at each request."""
        first, stop = self._wanted(data) or (0, len(data))
        said = f"bytes {first}-{stop - 1}/{len(data) + len(self.server.requests)}"
        self._part(data, first, stop, sent=data[first:stop], said=said)

    faults: ClassVar = {
        "whole": _whole,
        "cut": _cut,
        "slow": _slow,
        "drip": _drip,
        "closed": _closed,
        "elsewhere": _elsewhere,
        "endless": _endless,
        "grown": _grown,
    }


CERTIFICATE = Path(__file__).with_name("localhost.pem")
LOGIN_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please log in</body></html>"


def xml(code: str, message: str = "") -> bytes:
    """Return the body with which S3 and Google say what was wrong."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


class Store(FileServer):
    """A store of objects that refuses some of them, counts how many requests wait at once, and may speak TLS."""

    scheme = "http"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.RequestHandlerClass = StoreHandler
        self.refused: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        """Status, body and headers of the answer, by a part of the path."""
        self.delay = 0.0
        self.clock_ahead = 0.0
        self.waiting = self.most_waiting = 0
        self.lock = threading.Lock()

    def refuse(self, part: str, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer requests for paths with this part so."""
        self.refused[part] = (status, body, headers)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"


class TlsStore(Store):
    """The same over TLS."""

    scheme = "https"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        self.socket = context.wrap_socket(self.socket, server_side=True)


class StoreHandler(Handler):
    server: Store

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.server.clock_ahead)

    def _serve(self, body: bool) -> None:
        with self.server.lock:
            self.server.waiting += 1
            self.server.most_waiting = max(self.server.most_waiting, self.server.waiting)
        time.sleep(self.server.delay)
        with self.server.lock:
            self.server.waiting -= 1
        for part, (status, answer, headers) in self.server.refused.items():
            if part in self.path:
                self.server.requests.append((self.command, self.path, self.headers.get("Range", "")))
                self.server.tokens.append(self.headers.get("Authorization", ""))
                return self._answer(status, answer, **headers)
        return super()._serve(body)


@contextmanager
def serving[Server: FileServer](root: Path, kind: type[Server] = FileServer) -> Iterator[Server]:
    """Serve a folder on a free port of 127.0.0.1 until the block ends."""
    with kind(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.given_up.set()
            server.shutdown()
            thread.join()


def nobody() -> str:
    """Return a URL where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing wait for long."""
    for name, seconds in (("TIMEOUT_CONNECT", "1"), ("TIMEOUT_READ", "0.3")):
        monkeypatch.setenv(f"LSST_HTTP_{name}", seconds)
    monkeypatch.setenv("LSSTCUTOUTS_PATIENCE", "0.8")
    web_of_process()._hosts.clear()  # what other tests found out
