"""Signals to a training: it ends within seconds, and its worker processes with it."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest

from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

from ..support.processes import PythonProcess
from ..support.ranks import environment

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux")


@pytest.fixture(scope="module")
def plan_file(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.parquet"
    build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=32).save(path)
    return path


@contextmanager
def started(plan_file: Path, workers: int, way: str) -> Iterator[tuple[PythonProcess, IO[str], IO[str]]]:
    """Yield a process, what it prints and its errors; it and its children are gone afterwards, whatever the test found."""
    reads, writes = os.pipe()
    with open(reads) as printed, tempfile.TemporaryFile("w+") as said:  # noqa: PTH123 - a pipe
        with open(writes, "w") as out:  # noqa: PTH123
            arguments = (plan_file, workers, way)
            process = PythonProcess("tests.support.looping", arguments, env=environment(), stdout=out, stderr=said)
        with process:
            try:
                yield process, printed, said
            finally:
                process.kill()


def errors_of(said: IO[str]) -> str:
    said.seek(0)
    return said.read()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "workers", "number", "group"),
    [
        ("loop", 0, signal.SIGINT, False),
        ("loop", 2, signal.SIGINT, False),
        ("loop", 2, signal.SIGINT, True),  # as a terminal does: the worker processes have it, too
        ("fit", 2, signal.SIGINT, False),
        ("loop", 2, signal.SIGTERM, False),
    ],
)
def test_a_signal_ends_a_training(
    plan_file: Path, way: str, workers: int, number: signal.Signals, group: bool, record_property
) -> None:
    with started(plan_file, workers, way) as (process, printed, said):
        assert printed.readline() == "running\n", errors_of(said)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= workers
        start = time.monotonic()
        (os.killpg if group else os.kill)(process.pid, number)
        process.wait(60)
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        assert len(gone) == len(children)
        assert time.monotonic() - start < 20
        assert "leaked" not in errors_of(said)
        if number == signal.SIGINT and way == "loop":
            assert "KeyboardInterrupt" in errors_of(said)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_exit_with_an_unfinished_pass_is_quiet(plan_file: Path, workers: int) -> None:
    with started(plan_file, workers, "exit") as (process, printed, said):
        assert process.wait(90) == 0
        assert (printed.read(), errors_of(said)) == ("", "")


@pytest.mark.slow
def test_workers_end_when_the_main_process_is_killed(plan_file: Path) -> None:
    """As when memory ran out; started in the default way, where their parent, the fork server, lives on."""
    with started(plan_file, 2, "killed") as (process, printed, said):
        assert printed.readline() == "running\n", errors_of(said)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
