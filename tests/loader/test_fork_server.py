"""The fork server of worker processes: it has imported what they need, and no thread when it forks."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil
import pytest

from lsstcutouts.loader import workers as workers_module
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.loader.workers import preload_fork_server
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts through /proc")

FIRST = "lsstcutouts.loader.fork_server"
ASKED = "(lambda os, sys: (dict(os.environ), sorted(sys.modules), len(os.listdir('/proc/self/task'))))(*map(__import__, ('os', 'sys')))"
"""What a child of the server says: environment, modules, threads."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server that nobody has started or told anything yet, in the place of this process's."""
    fresh = forkserver.ForkServer()
    monkeypatch.setattr(forkserver, "_forkserver", fresh)
    for name in ("ensure_running", "connect_to_new_process", "set_forkserver_preload", "get_inherited_fds"):
        monkeypatch.setattr(forkserver, name, getattr(fresh, name))
    yield fresh
    if fresh._forkserver_pid is not None:  # type: ignore[attr-defined]
        os.kill(fresh._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]  # it waits for its children otherwise
        fresh._stop()  # type: ignore[attr-defined]


def loader_of(repo: SimulatedRepository, context: Any = None) -> CutoutLoader:
    plan = build_plan(repo.root, repo.truth, collections="dp2", bands="g", size=16)
    dataset = CutoutDataset(plan, batch_size=40, cache_bytes="50 MB", threads=1)
    return CutoutLoader(dataset, num_workers=1, multiprocessing_context=context)


def test_it_has_loaded_everything_and_no_thread(server: Any, dp2_repo: SimulatedRepository) -> None:
    loader = loader_of(dp2_repo)
    assert [len(batch["object_id"]) for batch in loader] == [40, 34]
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        environment, modules, _ = pool.submit(eval, ASKED).result(60)
    assert {FIRST, *workers_module._PRELOADED, "pyarrow", "lsstcutouts.fits.kernels"} <= set(modules)
    assert environment["JE_ARROW_MALLOC_CONF"] == "background_thread:false"
    threads = list(Path(f"/proc/{server._forkserver_pid}/task").iterdir())
    assert [int(thread.name) for thread in threads] == [server._forkserver_pid]
    assert "JE_ARROW_MALLOC_CONF" not in os.environ  # this process stays as it is
    (worker,) = loader._iterator._workers  # type: ignore[attr-defined]
    assert sum(psutil.Process(worker.pid).cpu_times()[:2]) < 1.0  # 5 and more where it imports all of that
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(10)
    assert [len(batch["object_id"]) for batch in loader] == [40, 34]  # the server serves the next one


@pytest.mark.parametrize("context", ["fork", "spawn", multiprocessing.get_context("fork")])
def test_other_start_methods_leave_it_alone(server: Any, dp2_repo: SimulatedRepository, context: Any) -> None:
    before = list(server._preload_modules)
    loader_of(dp2_repo, context)
    assert server._preload_modules == before
    assert server._forkserver_pid is None


def test_what_is_set_for_it_stays(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    multiprocessing.get_context("forkserver").set_forkserver_preload(["tests.support.ranks", "torch"])
    for _ in range(2):
        preload_fork_server()
        assert server._preload_modules == [
            FIRST, "lightning.pytorch", "lsstcutouts.loader.loader", "lsstcutouts.loader.datamodule.module", "tests.support.ranks", "torch",
        ]  # fmt: skip
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    multiprocessing.get_context("forkserver").set_forkserver_preload([])
    preload_fork_server()  # what this process has not imported, workers do not need
    assert server._preload_modules == [FIRST, "torch", *workers_module._PRELOADED[2:]]
