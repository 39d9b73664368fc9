"""Partitions on Dask: the same results, errors as here, lost workers, schedulers and clients."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from distributed import Client, LocalCluster

from lsstcutouts import export
from lsstcutouts.bulk.engines import dask_client, run_here, run_on_dask, workers_of_a_node
from lsstcutouts.bulk.finished import PartitionResult
from lsstcutouts.catalog.healpix import Cell
from lsstcutouts.catalog.partitions import Partition
from lsstcutouts.catalog.row_sources import TableRows
from lsstcutouts.errors import CatalogError, ConfigurationError, WorkerError, WriteError
from lsstcutouts.testing import SimulatedRepository

from ..support.exporting import SETTINGS
from ..support.exports import same, tables_of
from ..support.processes import PythonProcess
from ..support.ranks import environment, free_port

FULL_DISK, WRONG, STRANGE = 5, 3, 4

pytestmark = pytest.mark.filterwarnings("ignore:Port .* is already in use", "ignore::ResourceWarning")


@dataclass(frozen=True)
class Numbered:
    """Returns the number of the partition; some have errors."""

    errors: bool = False

    def __call__(self, partition: Partition) -> PartitionResult:
        pixel = partition.cell.pixel
        if self.errors and pixel == WRONG:
            raise CatalogError("three is wrong")
        if self.errors and pixel == FULL_DISK:
            raise WriteError("the disk is full")
        return PartitionResult(partition.cell.order, pixel, rows=pixel)


@dataclass(frozen=True)
class Strange:
    """Raises what no partition should."""

    def __call__(self, partition: Partition) -> PartitionResult:
        if partition.cell.pixel == STRANGE:
            raise ZeroDivisionError
        return PartitionResult(partition.cell.order, partition.cell.pixel)


def partitions(count: int) -> Iterator[Partition]:
    return (Partition(Cell(12, pixel), TableRows(None)) for pixel in range(count))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Return a client of workers that are threads of this process."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as one,
    ):
        yield one


def test_all_partitions_are_done_once(client: Client) -> None:
    found = list(run_on_dask(Numbered(), partitions(60), client))
    assert sorted(one.cell.pixel for one in found) == list(range(60))
    assert all(one.rows == one.cell.pixel for one in found)
    assert not list(run_on_dask(Numbered(), iter(()), client))
    assert workers_of_a_node(client) >= 1


def test_two_runs_with_the_same_cells_do_not_share_results(client: Client) -> None:
    one, other = run_on_dask(Numbered(), partitions(12), client), run_on_dask(Strange(), partitions(12), client)
    pairs = [(a, b) for a, b in zip(one, other, strict=True)]
    assert sorted(a.rows for a, _ in pairs) == list(range(12))
    assert {b.rows for _, b in pairs} == {0}
    assert sum(bool(b.error) for _, b in pairs) == 1


def test_only_some_partitions_are_known_to_the_scheduler(client: Client) -> None:
    taken = 0

    def counted() -> Iterator[Partition]:
        nonlocal taken
        for partition in partitions(1000):
            taken += 1
            yield partition

    for number, _ in enumerate(run_on_dask(Numbered(), counted(), client)):
        assert taken <= number + 12


def test_workers_come_and_go(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([5, 0, 1, 3] * 1000)
    monkeypatch.setattr("lsstcutouts.bulk.engines._LOOK", -1.0)
    monkeypatch.setattr(client, "nthreads", lambda: {"one": next(counts)})
    assert len(list(run_on_dask(Numbered(), partitions(50), client))) == 50


def test_errors_are_those_of_one_process(client: Client) -> None:
    here, there = (
        run_here(Numbered(errors=True), partitions(FULL_DISK)),
        run_on_dask(Numbered(errors=True), partitions(FULL_DISK), client),
    )
    for found in (list(here), list(there)):
        assert [one.error for one in sorted(found, key=lambda one: one.cell.pixel)] == [
            "",
            "",
            "",
            "three is wrong",
            "",
        ]
    for run in (
        run_here(Numbered(errors=True), partitions(9)),
        run_on_dask(Numbered(errors=True), partitions(9), client),
    ):
        with pytest.raises(WriteError, match="the disk is full"):
            list(run)
    strange = [one.error for one in run_on_dask(Strange(), partitions(6), client) if one.error]
    assert strange in (["ZeroDivisionError"], ["ZeroDivisionError: "])
    assert sorted(one.rows for one in run_on_dask(Numbered(), partitions(5), client)) == list(range(5))


def test_an_address_without_a_scheduler() -> None:
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        for address in (f"tcp://127.0.0.1:{free_port()}", "nonsense://host:1"):
            with pytest.raises(ConfigurationError, match="no scheduler of Dask answers"), dask_client(address):
                pass


def test_an_export_on_dask_equals_one_here(
    dp2_repo: SimulatedRepository, targets: Path, client: Client, tmp_path: Path
) -> None:
    export(targets, dp2_repo.root, tmp_path / "here", **SETTINGS)
    result = export(targets, dp2_repo.root, tmp_path / "dask", **SETTINGS, engine="dask", scheduler=client)
    assert result.complete
    assert same(tables_of(tmp_path / "here"), tables_of(tmp_path / "dask"))
    assert export(targets, dp2_repo.root, tmp_path / "dask", **SETTINGS, scheduler=client).skipped == result.partitions


# Kills.


@contextmanager
def scheduler_process(port: int, folder: Path) -> Iterator[subprocess.Popen]:
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    with dask_process("scheduler", arguments, folder) as process:
        wait_for(lambda: is_open(port), 60)
        yield process


@contextmanager
def dask_process(kind: str, arguments: list[str], folder: Path) -> Iterator[subprocess.Popen]:
    with (folder / f"{kind}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments],
            env=environment(LSSTCUTOUTS_CACHE="off", SLOW="0.2"),
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing happened for {seconds:g} s"
        time.sleep(0.05)


@contextmanager
def exporting(arguments: list[Any], folder: Path, **more: str) -> Iterator[tuple[PythonProcess, Path]]:
    """Start an export, and yield its process and the file of what it says."""
    with (folder / "out.log").open("wb") as out:
        process = PythonProcess(
            "tests.support.exporting",
            arguments,
            env=environment(LSSTCUTOUTS_CACHE="off", SLOW="0.2", **more),
            stdout=out,
            stderr=out,
        )
    try:
        yield process, folder / "out.log"
    finally:
        process.kill()
        process.wait(30)
        with process:  # closes its connection
            pass


class Killing:
    """Exports that are disturbed by kills and begun again until they are complete, on one cluster until its scheduler is killed."""

    def __init__(self, repo: Path, catalog: Path, folder: Path) -> None:
        self.repo, self.catalog, self.folder = repo, catalog, folder
        self.lines = list[str]()
        self.whole = folder / "whole"
        export(catalog, repo, self.whole, **SETTINGS)
        self.tables = tables_of(self.whole)
        self.cluster = ExitStack()
        self.running: tuple[str, subprocess.Popen, subprocess.Popen] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.close()

    def started(self) -> tuple[str, subprocess.Popen, subprocess.Popen]:
        """Return the address of an outside scheduler, its process, and the process of its two workers."""
        if self.running is None:
            port = free_port()
            address = f"tcp://127.0.0.1:{port}"
            scheduler = self.cluster.enter_context(scheduler_process(port, self.folder))
            arguments = [address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
            worker = self.cluster.enter_context(dask_process("worker", arguments, self.folder))
            self.running = address, scheduler, worker
        return self.running

    def disturbed(self, number: int, victim: str, rng: random.Random) -> None:
        """Run an export, kill a worker, the scheduler or the client, and finish the export."""
        out, begun = self.folder / f"out{number}", time.monotonic()
        address, scheduler, worker = self.started()
        arguments = [self.repo, self.catalog, out]
        with exporting(arguments, self.folder, SCHEDULER=address) as (client, log):
            wait_for(lambda: (out / "finished").is_dir() and any((out / "finished").iterdir()), 120)
            time.sleep(rng.uniform(0, 0.8))
            before = len(list((out / "finished").iterdir()))
            if victim == "client":
                os.kill(client.pid, signal.SIGKILL)
            elif victim == "scheduler":
                os.kill(scheduler.pid, signal.SIGKILL)
            else:
                children = psutil.Process(worker.pid).children(recursive=True)
                rng.choice([one for one in children if "spawn_main" in " ".join(one.cmdline())]).kill()
            killed = time.monotonic()
            status = client.wait(120)
            ended, said = time.monotonic() - killed, log.read_text()
            if victim == "worker":
                assert status == 0, said[-3000:]
            elif victim == "scheduler":
                # Killed after the last partition, the client may not have noticed.
                assert ended < 20, f"the client took {ended:.0f} s to end"
                if status:
                    assert "give the same command again" in said.strip().splitlines()[-1], said[-3000:]
        if victim == "scheduler":
            self.cluster.close()
            self.running = None
        if victim != "worker":
            with exporting(arguments, self.folder, ENGINE="threads") as (client, log):
                assert client.wait(120) == 0, log.read_text()[-3000:]
                result = json.loads(log.read_text().splitlines()[-1])
                assert result["complete"]
                assert result["skipped"] >= before
        equal = same(tables_of(out), self.tables)
        self.lines.append(
            f"{number:3d} {victim:9s} killed after {before:2d} of 10 partitions; client ended with {status} after {ended:4.1f} s;"
            f" equal to an undisturbed run: {equal}; {time.monotonic() - begun:.0f} s"
        )
        assert equal
        assert not list(out.rglob(".*"))


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(600)
def test_kills_of_worker_scheduler_and_client(dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path) -> None:
    rng = random.Random(5)
    with Killing(dp2_repo.root, targets, tmp_path) as killing:
        for number, victim in enumerate(("client", "worker", "scheduler")):
            killing.disturbed(number, victim, rng)


@pytest.mark.long
@pytest.mark.system
@pytest.mark.timeout(3000)
def test_twenty_kills(dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path) -> None:
    rng = random.Random(11)
    log = Path(os.environ.get("LSSTCUTOUTS_KILLS") or tmp_path / "kills.log")
    with Killing(dp2_repo.root, targets, tmp_path) as killing:
        try:
            for number in range(20):
                killing.disturbed(number, ("client", "worker", "scheduler")[number % 3], rng)
        finally:
            log.write_text("\n".join(killing.lines) + "\n")


def workers_below(pid: int) -> list[psutil.Process]:
    return [one for one in psutil.Process(pid).children(recursive=True) if "spawn_main" in " ".join(one.cmdline())]


@pytest.mark.slow
@pytest.mark.system
def test_workers_of_a_local_cluster(dp2_repo: SimulatedRepository, targets: Path, tmp_path: Path) -> None:
    """A worker's death does not fail the run; the client's death ends the workers."""
    with exporting([dp2_repo.root, targets, tmp_path / "a"], tmp_path, ENGINE="dask", WORKERS="2") as (client, log):
        wait_for(lambda: any((tmp_path / "a" / "finished").glob("*.parquet")), 120)
        workers_below(client.pid)[0].kill()
        assert client.wait(120) == 0, log.read_text()[-3000:]
        assert '"complete": true' in log.read_text()
    export(targets, dp2_repo.root, tmp_path / "whole", **SETTINGS)
    assert same(tables_of(tmp_path / "a"), tables_of(tmp_path / "whole"))
    with exporting([dp2_repo.root, targets, tmp_path / "b"], tmp_path, ENGINE="dask", WORKERS="2") as (client, log):
        wait_for(lambda: any((tmp_path / "b" / "finished").glob("*.parquet")), 120)
        workers = workers_below(client.pid)
        assert len(workers) >= 2
        os.kill(client.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, 15)
        assert not alive


def test_a_lost_scheduler_is_said(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `Client` does when its connection breaks: it cancels what it waits for."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as other,
    ):
        futures, submit = list[Any](), other.submit
        monkeypatch.setattr(
            other, "submit", lambda *given, **more: futures.append(submit(*given, **more)) or futures[-1]
        )
        run = run_on_dask(Numbered(), partitions(100), other)
        next(run)
        other.cancel(futures)
        with pytest.raises(WorkerError, match="give the same command again"):
            list(run)
