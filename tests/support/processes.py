"""Python processes that start with torch, Lightning and the package loaded: forked from one server.

A new interpreter takes 6 s of CPU to import these; a forked one takes nothing. What a test says of the start itself
(what an import costs, what torchrun or Lightning start) needs a new interpreter still. The server has a thread each and
the plain kernels, as `tests.support.ranks.environment` has.
"""

import atexit
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

from .ranks import ROOT, elastic, environment, free_port

__all__ = ["PythonProcess", "run_python", "run_ranks"]


class PythonProcess:
    """A process that runs a module as ``python -m module arguments`` would; used like `subprocess.Popen`."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[object],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stdout: IO[Any] | None = None,
        stderr: IO[Any] | None = None,
    ) -> None:
        """Start in a session of its own; without files for them, what it prints is lost."""
        if env.get("LSSTCUTOUTS_KERNELS") != "plain" or env.get("OMP_NUM_THREADS") != "1":
            raise ValueError("the server has a thread each and the plain kernels: start from ranks.environment()")
        task = {
            "module": module,
            "arguments": [str(a) for a in arguments],
            "env": dict(env),
            "cwd": str(cwd or Path.cwd()),
        }
        self.args = [module, *task["arguments"]]
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_server())
        with open(os.devnull, "r+b") as nothing:  # noqa: PTH123 - has no better name
            files = [(one or nothing).fileno() for one in (stdout, stderr)]
            socket.send_fds(self._connection, [json.dumps(task).encode() + b"\n"], files)
        self.pid = self._number()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()
        self._connection.close()

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status, negative for a signal."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._number()
        return self.returncode

    def poll(self) -> int | None:
        """Return its exit status if it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def _number(self) -> int:
        """Read a line from the server."""
        line = b""
        while not line.endswith(b"\n"):
            part = self._connection.recv(1)
            assert part, "the server of processes has ended"
            line += part
        return int(line)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it and the processes of its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def run_python(
    module: str,
    arguments: Sequence[object],
    *,
    envs: Sequence[Mapping[str, str]],
    cwd: Path | None = None,
    timeout: float = 280,
) -> list[str]:
    """Run a module in one process for each environment, all at once; all must succeed. Return what each printed."""
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / str(n) for n in range(len(envs))]
        started = []
        try:
            for env, path in zip(envs, outputs, strict=True):
                with path.open("w") as out, path.with_suffix(".err").open("w") as err:
                    started.append(PythonProcess(module, arguments, env=env, cwd=cwd, stdout=out, stderr=err))
            for process, path in zip(started, outputs, strict=True):
                status = process.wait(max(0.1, deadline - time.monotonic()))
                said = (
                    path.read_text(errors="replace")[-3000:],
                    path.with_suffix(".err").read_text(errors="replace")[-6000:],
                )
                assert status == 0, "\n".join((f"{process.args} ended with {status}", *said))
        finally:
            for process in started:
                process.kill()
                with process:
                    pass
        return [path.read_text(errors="replace") for path in outputs]


def run_ranks(module: str, arguments: Sequence[object], world: int, *, timeout: float = 280) -> None:
    """Run a module in so many ranks of one node, with the variables that torchrun would set; one has none."""
    port = free_port()
    more = [elastic(rank, world, port) if world > 1 else {} for rank in range(world)]
    run_python(module, arguments, envs=[environment(**m) for m in more], timeout=timeout)


@cache
def _server() -> str:
    """Start the server of this process, and return the address of its socket."""
    folder = tempfile.mkdtemp(prefix="processes-")
    address = f"{folder}/socket"
    command = [sys.executable, "-m", "tests.support.processes", address]
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )

    def end() -> None:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    server.stdout.close()
    return address


def _serve(address: str) -> None:
    """Fork a process for each connection, that forks the one asked for and tells its id and then its exit status."""
    import lightning  # noqa: F401
    import torch  # noqa: F401

    import lsstcutouts.app.cli
    import lsstcutouts.app.training
    import lsstcutouts.loader.datamodule.module  # noqa: F401

    # Each process would go through all of torch's objects when it ends: 2.3 s of CPU instead of 0.5.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes of the connections
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)  # noqa: T201 - to the process that waits for it
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, _, _ = socket.recv_fds(connection, 1 << 20, 2)
    while not message.endswith(b"\n"):
        message += connection.recv(1 << 20)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(json.loads(message), files)
    connection.sendall(f"{pid}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):  # nobody wants to know any more
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


def _become(task: dict[str, Any], files: list[int]) -> NoReturn:
    """Run a module as the main one of this process, and end it as an interpreter would."""
    status = 1
    try:
        os.setsid()
        for number, file in zip((1, 2), files, strict=True):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(task["env"])
        os.chdir(task["cwd"])
        sys.argv[1:] = task["arguments"]
        runpy.run_module(task["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
    except BaseException as error:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
        if isinstance(error, KeyboardInterrupt):
            status = 130
    sys.exit(status)  # unwinds to the interpreter, which runs what is registered with atexit


if __name__ == "__main__":
    _serve(sys.argv[1])
