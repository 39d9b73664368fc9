"""A Jupyter kernel of this interpreter, as notebooks use it: cells are run, interrupted, and what they display is kept."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from .ranks import environment

__all__ = ["Answer", "Kernel", "running_kernel"]


@dataclass
class Answer:
    """What a cell printed, displayed (bundles of MIME types) and raised (the name of the class, or nothing)."""

    text: str = ""
    shown: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    traceback: str = ""


class Kernel:
    def __init__(self, manager: KernelManager, client: BlockingKernelClient, pid: int) -> None:
        self._manager, self._client, self._process = manager, client, psutil.Process(pid)

    def run(
        self, code: str, *, at: str | None = None, after: float | None = None, error: str = "", timeout: float = 90
    ) -> Answer:
        """Run a cell that must raise ``error``, or nothing.

        Parameters
        ----------
        code
            Of the cell.
        at
            The cell is interrupted when it has printed this.
        after
            The cell is interrupted after so many seconds, if it has not ended.
        error
            Name of a class; ``"*"`` for any or none.
        """
        request = self._client.execute(code)
        answer, start = Answer(), time.monotonic()
        while True:
            passed = time.monotonic() - start
            assert passed < timeout, f"the cell has not ended: {answer.text[-2000:]}"
            if after is not None and passed >= after:
                self._manager.interrupt_kernel()
                after = None
            try:
                message = self._client.get_iopub_msg(timeout=min(0.5, max(0.0, (after or passed + 0.5) - passed)))
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                answer.text += content["text"]
                if at is not None and at in answer.text:
                    self._manager.interrupt_kernel()
                    at = None
            elif kind in {"display_data", "execute_result"}:
                answer.shown.append(content["data"])
            elif kind == "error":
                answer.error, answer.traceback = content["ename"], "\n".join(content["traceback"])
            elif kind == "status" and content["execution_state"] == "idle":
                break
        assert error in {answer.error, "*"}, f"{answer.error}: {answer.traceback}\n{answer.text}"
        return answer

    def children(self) -> list[psutil.Process]:
        """Return the processes that the kernel has started, and those that they have."""
        return self._process.children(recursive=True)


@contextmanager
def running_kernel(folder: Path, **variables: str) -> Iterator[Kernel]:
    """Start a kernel in a folder; at the end it is stopped as Jupyter does, and none of its processes may live on."""
    manager = KernelManager(
        kernel_name="python3",
        # The kernel of this interpreter, whatever kernels the user has.
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        connection_file=str(folder / "connection.json"),
    )
    manager.start_kernel(
        cwd=str(folder),
        env=environment(IPYTHONDIR=str(folder / "ipython"), **variables),
        extra_arguments=["--HistoryManager.enabled=False"],
    )
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        kernel = Kernel(manager, client, manager.provisioner.pid)
        yield kernel
        started = kernel.children()
        # ipykernel waits for children that have ended, such as the fork server; so Jupyter kills it after five seconds.
        manager.shutdown_kernel()
        _, alive = psutil.wait_procs(started, 10)
        assert not alive, f"processes of the kernel live on: {alive}"
    finally:
        client.stop_channels()
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
