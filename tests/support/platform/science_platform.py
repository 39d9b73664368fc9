"""The platform as a test process sees it: starts and ends the processes, publishes repositories, changes settings."""

import http.client
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lsstcutouts.testing import SimulatedRepository

from .settings import TOKEN, Counters, Request, Settings

__all__ = ["Platform", "PlatformError", "Published"]

ROOT = Path(__file__).parents[3]
HOST = "127.0.0.1"
START_SECONDS = 120.0
PUBLISH_SECONDS = 600.0
"""Upload of a large repository."""
CONTROL_SECONDS = 30.0
END_SECONDS = 5.0


class PlatformError(RuntimeError):
    """A process of the platform failed."""


@dataclass(frozen=True)
class Published:
    """A repository that is behind the Butler server and on disk, with the same datasets in the same collection."""

    name: str
    url: str
    """For ``Butler(url)``."""
    root: Path
    """Folder of the local repository."""
    collections: str

    @property
    def local(self) -> SimulatedRepository:
        """The local repository, if `simulate` wrote it: bands, patches, targets (``local.truth``)."""
        return SimulatedRepository.load(self.root)


class Platform:
    """A science platform on 127.0.0.1: daf_butler's own server, an S3 store, and a network between them and the client.

    ::

        with Platform(folder) as platform:
            platform.publish("dp2", root, "LSSTCam/runs/DP2")
            platform.set(rtt=0.05, rate=20e6)
            Butler(platform.url("dp2"), collections="LSSTCam/runs/DP2")  # with platform.environment()
            platform.counters().data_bytes

    The Butler server starts with the first `url` after a `publish`. All processes end with this one.
    """

    token = TOKEN

    def __init__(self, folder: Path) -> None:
        """Keep registries and the output of the processes in a folder, which must exist."""
        self.folder = folder
        self._repositories: dict[str, tuple[Path, str]] = {}
        self._served: set[str] = set()
        self._server: subprocess.Popen[bytes] | None = None
        self._front: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, int] = {}
        """Ports of 127.0.0.1: ``"data"``, ``"api"``, ``"control"`` of the front, ``"store"`` of the S3 store itself."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server((HOST, 0), backlog=128)
        try:
            self._server = self._start_server()
            self._front = self._start("front", self._listener.getsockname()[1])
            self.ports |= json.loads(self._line("front", self._front, START_SECONDS))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        for process in (self._server, self._front):
            if process is not None:
                _end(process)
        self._listener.close()

    # --- Repositories -------------------------------------------------------------------------------------------------

    def publish(self, name: str, root: Path, collections: str) -> None:
        """Copy a collection of a local repository behind the server; done by the next `url`."""
        if name in self._repositories:
            raise ValueError(f"a repository {name!r} is published already")
        self._repositories[name] = (root, collections)

    def url(self, name: str) -> str:
        """Return the URL of a repository, when the server serves it."""
        if not self._served >= self._repositories.keys():
            self._serve()
        return self._url(name)

    def published(self, name: str) -> Published:
        """Return a repository on both sides, when the server serves it."""
        root, collections = self._repositories[name]
        return Published(name, self.url(name), root, collections)

    @property
    def index(self) -> str:
        """URL of the index of the repositories, for ``DAF_BUTLER_REPOSITORY_INDEX``."""
        return f"http://{HOST}:{self.ports['api']}/api/butler/configs/repositories.yaml"

    def _url(self, name: str) -> str:
        if name not in self._repositories:
            raise ValueError(f"no repository {name!r} is published; there are {sorted(self._repositories)}")
        return f"http://{HOST}:{self.ports['api']}/api/butler/repo/{name}/"

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a client process: a good token, and nothing of AWS."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))}
        return {**own, "BUTLER_RUBIN_ACCESS_TOKEN": TOKEN, **more}

    # --- Settings and the log -----------------------------------------------------------------------------------------

    def set(self, **changes: Any) -> None:
        """Change some of `Settings`; the others stay."""
        Settings(**changes)  # refuses unknown names and values
        self._control("/settings", changes)

    def reset(self) -> None:
        """Return to the default settings, clear the log, end requests that hang."""
        self._control("/reset")

    @property
    def settings(self) -> Settings:
        """The settings now."""
        return Settings(**self._control("/settings", {}))

    def log(self, port: str = "") -> list[Request]:
        """Return the requests since the last `reset`, of the port ``"data"`` or ``"api"`` or of both."""
        requests = [Request(**values) for values in self._control("/log")]
        return [request for request in requests if port in {"", request.port}]

    def counters(self) -> Counters:
        """Return sums over the requests since the last `reset`."""
        return Counters(**self._control("/counters"))

    def _control(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection(HOST, self.ports["control"], timeout=CONTROL_SECONDS)
        try:
            connection.request("POST", path, json.dumps(body or {}))
            answer = connection.getresponse()
            return json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PlatformError(f"the front does not answer {path}\n{self._output('front')}") from error
        finally:
            connection.close()

    # --- Processes ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Publish what is new and start the server again."""
        if self._server is None or self._served:
            if self._server is not None:
                _end(self._server)
            self._server = self._start_server()
        task = {
            "repositories": {name: (str(root), chain) for name, (root, chain) in self._repositories.items()},
            "urls": {name: self._url(name) for name in self._repositories},
            "store": f"http://{HOST}:{self.ports['store']}",
            "data": f"http://{HOST}:{self.ports['data']}",
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(task).encode() + b"\n")
        self._server.stdin.flush()
        self._line("butler_server", self._server, PUBLISH_SECONDS)
        self._served = set(self._repositories)

    def _start_server(self) -> subprocess.Popen[bytes]:
        number = self._listener.fileno()
        return self._start("butler_server", self.folder, number, files=(number,))

    def _start(self, module: str, *arguments: object, files: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"tests.support.platform.{module}", *map(str, arguments)]
        with (self.folder / f"{module}.log").open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment(PYTHONPATH=str(ROOT)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                pass_fds=files,
            )

    def _line(self, module: str, process: subprocess.Popen[bytes], seconds: float) -> bytes:
        """Return the next line that a process prints."""
        assert process.stdout is not None
        end, line = time.monotonic() + seconds, b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
            part = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not part:
                reason = "has ended" if ready else f"is not ready after {seconds:g} s"
                raise PlatformError(f"tests.support.platform.{module} {reason}\n{self._output(module)}")
            line += part
        return line

    def _output(self, module: str) -> str:
        return (self.folder / f"{module}.log").read_text(errors="replace")[-4000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close what the process reads, at which it ends; kill it if it does not."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
