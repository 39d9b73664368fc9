"""Rates, memory and restarts of exports: one and two workers of Dask beside the loader and a plain write of the same bytes.

Run: python -m benchmarks.bulk [folder=bench/bulk] [rows=200000] [partition_rows=2500] [patches=7] [size=32] [bands=gri]
     [planes=[image]] [memory_rows=[100000,10000000]] [wide_rows=1000000] [tasks=100000] [repeats=1] [only=[...]]
     [image=docs/images/bulk-throughput.png]

Repository and catalogs are written into ``folder`` once; each export is removed after it was measured. Each case runs in a process of
its own, with one decoding thread for each worker. A rate of an export counts from when the workers are ready to the last file;
``only`` names cases: rates, memory, wide, scheduler.
"""

import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lsstcutouts import CutoutDataset, CutoutLoader, Sampling, build_plan, export
from lsstcutouts.bulk.engines import dask_client, run_on_dask
from lsstcutouts.bulk.exporting import Export
from lsstcutouts.bulk.finished import PartitionResult
from lsstcutouts.bulk.partition_job import JobResult
from lsstcutouts.catalog.healpix import Cell
from lsstcutouts.catalog.partitions import Partition
from lsstcutouts.catalog.row_sources import TableRows
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.testing import SimulatedRepository, SimulationConfig
from lsstcutouts.testing.simulated_skymap import skymap_of
from tests.support.hats import divided, write_catalog

from .common import report, settings_of, simulated

__all__ = ["BulkSettings", "Measured", "measure"]

CASES = ("rates", "memory", "wide", "scheduler")

_FAR = 20.0
"""Degrees in declination between the repository and rows outside the coverage."""


@dataclass(frozen=True)
class BulkSettings:
    """What is measured; see the script's description."""

    folder: str = "bench/bulk"
    rows: int = 200_000
    partition_rows: int = 2500
    patches: int = 7
    cell: int = 150
    cells: int = 4
    memory_rows: Sequence[int] = (100_000, 10_000_000)
    memory_partition_rows: int = 50_000
    wide_rows: int = 1_000_000
    tasks: int = 100_000
    only: Sequence[str] = CASES
    image: str = "docs/images/bulk-throughput.png"
    size: int = 32
    bands: str = "gri"
    planes: Sequence[str] = ("image",)
    repeats: int = 1
    cache_bytes: str = "500 MB"

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of exports and of plans."""
        return {"collections": "dp2", "bands": self.bands, "size": self.size}

    @property
    def exporting(self) -> dict[str, Any]:
        """Further arguments of exports."""
        return {**self.reading, "planes": tuple(self.planes), "threads": 1, "cache_bytes": self.cache_bytes}


@dataclass
class Measured:
    """What a process did: its result, seconds and rows finished until then, and resident bytes of it and its workers."""

    value: Any = None
    finished: list[tuple[float, int]] = field(default_factory=list)
    resident: list[tuple[float, int]] = field(default_factory=list)
    largest: int = 0
    """Resident bytes of the process, or of the worker, that held most."""


def repository_of(settings: BulkSettings) -> SimulatedRepository:
    """Return the repository, which is written if it is not there."""
    config = SimulationConfig(
        cells=settings.cells,
        cell=settings.cell,
        patches=settings.patches,
        bands=settings.bands,
        targets=200,
        missing=None,
    )
    return simulated(Path(settings.folder) / f"repo-{settings.patches}-{settings.cells}x{settings.cell}", config)


def catalog_of(settings: BulkSettings) -> Path:
    """Return a HATS catalog of targets that are spread evenly over the patches."""
    folder = Path(settings.folder) / f"catalog-{settings.rows}-{settings.partition_rows}"
    if not (folder / "collection.properties").exists():
        config, rng = repository_of(settings).config, np.random.default_rng(1)
        skymap = skymap_of(config)
        boxes = np.array([skymap.inner_box(patch) for patch in config.patch_ids])[
            rng.integers(len(config.patch_ids), size=settings.rows)
        ]
        y, x = (
            boxes[:, 2 * at] + rng.uniform(size=settings.rows) * np.ptp(boxes[:, 2 * at :][:, :2], axis=1)
            for at in (0, 1)
        )
        ra, dec = skymap.sky(y, x)
        columns = {
            "object_id": np.arange(settings.rows),
            "ra": ra,
            "dec": dec,
            "mag": rng.uniform(18, 26, settings.rows),
        }
        write_catalog(folder, divided(pa.table(columns), settings.partition_rows))
    return folder


def outside_catalog(settings: BulkSettings, rows: int, columns: int = 1) -> Path:
    """Return a HATS catalog whose rows lie outside the repository, but the first 200, in partitions of the same size."""
    folder = Path(settings.folder) / f"outside-{rows}-{columns}"
    if not (folder / "collection.properties").exists():
        repo, rng = repository_of(settings), np.random.default_rng(2)
        truth = pq.read_table(repo.truth).to_pandas()[["ra", "dec"]][:200]
        side, centre = 40 * np.sqrt(rows / 10_000_000), truth.median()

        def part() -> Iterator[tuple[Cell, pa.Table]]:
            ra = np.concatenate([truth.ra, centre.ra + side * rng.uniform(-1, 1, rows - 200)]) % 360
            dec = np.concatenate([truth.dec, centre.dec + _FAR + side / 2 * rng.uniform(0, 1, rows - 200)])
            table = {"object_id": np.arange(rows), "ra": ra, "dec": dec}
            table |= {f"column{n}": rng.normal(size=rows) for n in range(columns)}
            yield from divided(pa.table(table), settings.memory_partition_rows if columns == 1 else 2 * rows)

        write_catalog(folder, part())
    return folder


# What the processes do.


def export_here(settings: BulkSettings, catalog: Path, out: Path, note: Callable[[int], None]) -> JobResult:
    """Export in this process."""
    repo = repository_of(settings).root
    return export(catalog, repo, out, **settings.exporting, progress=lambda one: note(one.rows))


def export_on_dask(
    settings: BulkSettings, catalog: Path, out: Path, workers: int, note: Callable[[int], None]
) -> float:
    """Export with workers of a local cluster; return seconds from when they are ready."""
    repo = repository_of(settings).root
    with dask_client(workers=workers) as client:
        client.wait_for_workers(workers)
        client.run(_load)
        start = time.perf_counter()
        note(0)
        export(catalog, repo, out, **settings.exporting, scheduler=client, progress=lambda one: note(one.rows))
        return time.perf_counter() - start


def load_all(settings: BulkSettings, catalog: Path, note: Callable[[int], None]) -> float:
    """Read the targets of a catalog with the loader, in its order; return seconds."""
    plan = build_plan(repository_of(settings).root, catalog, **settings.reading)
    data = CutoutDataset(
        plan,
        batch_size=512,
        planes=tuple(settings.planes),
        threads=1,
        cache_bytes=settings.cache_bytes,
        sampling=Sampling(shuffle=False),
    )
    start = time.perf_counter()
    note(0)
    for batch in CutoutLoader(data):
        note(len(batch["object_id"]))
    return time.perf_counter() - start


def write_plainly(sizes: Sequence[int], out: Path, note: Callable[[int], None]) -> float:
    """Write files of so many bytes; return seconds."""
    block = np.random.default_rng(0).bytes(2**24)
    out.mkdir(parents=True)
    start = time.perf_counter()
    for number, size in enumerate(sizes):
        with (out / str(number)).open("wb") as file:
            for at in range(0, size, len(block)):
                file.write(block[: size - at])
        note(0)
    return time.perf_counter() - start


def restart(settings: BulkSettings, catalog: Path, out: Path, _note: Callable[[int], None]) -> tuple[float, int]:
    """Export again what is complete; return seconds and targets that were read."""
    read, submit = list[int](), CutoutReader.submit

    def counted(self: CutoutReader, pool: Any, request: Any, **more: Any) -> Any:
        read.append(len(request.targets))
        return submit(self, pool, request, **more)

    CutoutReader.submit = counted  # type: ignore[method-assign, assignment]
    start = time.perf_counter()
    export(catalog, repository_of(settings).root, out, **settings.exporting)
    return time.perf_counter() - start, sum(read)


@dataclass(frozen=True)
class Stub:
    """A partition that takes no time; as large as the work of an export, pickled."""

    load: bytes = bytes(4000)

    def __call__(self, partition: Partition) -> PartitionResult:
        """Return the number of the partition."""
        return PartitionResult(partition.cell.order, partition.cell.pixel, rows=1)


def many_tasks(count: int, address: str, note: Callable[[int], None]) -> float:
    """Submit so many partitions to a scheduler; return seconds."""
    with dask_client(address) as client:
        client.wait_for_workers(2)
        start = time.perf_counter()
        partitions = (Partition(Cell(12, pixel), TableRows(pa.table({}))) for pixel in range(count))
        for _ in run_on_dask(Stub(), partitions, client):
            note(1)
        return time.perf_counter() - start


def _load() -> None:
    _ = Export, CutoutReader


# How they are measured.


def measure(function: Callable[..., Any], *arguments: Any) -> Measured:
    """Call a function in a new process; watch the memory of it and of its workers."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, function, arguments))
    found, start = Measured(), time.perf_counter()
    process.start()
    theirs.close()
    watch = threading.Thread(target=_watch, args=(process.pid, found, start))
    watch.start()
    try:
        while True:
            kind, value = ours.recv()
            if kind == "rows":
                found.finished.append((time.perf_counter() - start, value))
            else:
                found.value = value
                break
    except EOFError as error:
        raise RuntimeError(f"the process of {function.__name__} ended; see its error above") from error
    finally:
        process.join()
        watch.join()
    return found


def _child(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    pipe.send(("value", function(*arguments, lambda rows: pipe.send(("rows", rows)))))


def _watch(pid: int, found: Measured, start: float) -> None:
    with_children = psutil.Process(pid)
    while True:
        try:
            if with_children.status() == psutil.STATUS_ZOMBIE:
                return
            each = [one.memory_info().rss for one in (with_children, *with_children.children(recursive=True))]
        except psutil.NoSuchProcess:
            if not with_children.is_running():
                return
            continue
        found.resident.append((time.perf_counter() - start, sum(each)))
        found.largest = max(found.largest, *each)
        time.sleep(0.1)


@contextmanager
def removed(path: Path) -> Iterator[Path]:
    """Yield the path of a folder that is removed before and after."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def rates(settings: BulkSettings) -> list[dict[str, Any]]:
    """Return rates of the loader, a plain write, and exports; the restart of an export."""
    catalog, folder, runs = catalog_of(settings), Path(settings.folder), dict[str, list[float]]()
    last, rows = dict[str, Measured](), []
    for _ in range(settings.repeats):
        last["loader"] = measure(load_all, settings, catalog)
        with removed(folder / "here") as out:
            last["export, one process"] = here = measure(export_here, settings, catalog, out)
            sizes = [path.stat().st_size for path in out.rglob("Npix=*.parquet")]
            again = measure(restart, settings, catalog, out)
        runs.setdefault("export, one process", []).append(here.value.seconds)
        with removed(folder / "plain") as out:
            last["plain write"] = measure(write_plainly, sizes, out)
        for workers in (1, 2):
            name = f"export, {workers} Dask worker{'s' * (workers > 1)}"
            with removed(folder / "dask") as out:
                last[name] = measure(export_on_dask, settings, catalog, out, workers)
        for name, one in last.items():
            if name != "export, one process":
                runs.setdefault(name, []).append(one.value)
    slower = max(median(runs["loader"]), median(runs["plain write"]))
    for name, seconds in runs.items():
        row = {"case": name, "rows/s": settings.rows / median(seconds), "MB/s": sum(sizes) / 1e6 / median(seconds)}
        row |= {"seconds": median(seconds), "largest process, MB": last[name].largest / 1e6}
        if name.startswith("export"):
            row["over the slower of loader and write"] = slower / median(seconds)
        rows.append(row)
    rows[-1]["over 1 worker"] = median(runs["export, 1 Dask worker"]) / median(runs["export, 2 Dask workers"])
    rows.append({"case": "restart", "seconds": again.value[0], "cutouts read": again.value[1]})
    _draw(settings, last)
    return rows


def memory(settings: BulkSettings) -> list[dict[str, Any]]:
    """Return the memory of a worker that exports catalogs with more and more rows."""
    rows, first = [], 0
    for count in settings.memory_rows:
        catalog = outside_catalog(settings, count)
        with removed(Path(settings.folder) / "memory") as out:
            found = measure(export_here, settings, catalog, out)
        first = first or found.largest
        rows.append(
            {
                "case": f"memory, {count:,} rows",
                "seconds": found.value.seconds,
                "rows/s": count / found.value.seconds,
                "partitions": found.value.partitions,
                "largest process, MB": found.largest / 1e6,
                "over the first": found.largest / first,
            }
        )
    return rows


def wide(settings: BulkSettings) -> list[dict[str, Any]]:
    """Return the memory of a worker that exports one partition with 50 columns."""
    catalog = outside_catalog(settings, settings.wide_rows, 50)
    with removed(Path(settings.folder) / "wide") as out:
        found = measure(export_here, settings, catalog, out)
    row = {"case": f"memory, a partition of {settings.wide_rows:,} rows with 50 columns"}
    return [row | {"seconds": found.value.seconds, "largest process, MB": found.largest / 1e6}]


def scheduler(settings: BulkSettings) -> list[dict[str, Any]]:
    """Return the memory of a scheduler, a process of its own, and its rate."""
    from distributed.deploy.subprocess import SubprocessCluster

    with SubprocessCluster(n_workers=2, threads_per_worker=1, scheduler_kwargs={"dashboard": False}) as cluster:
        pid, most = _scheduler_pid(cluster), 0
        done = threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(0.1):
                most = max(most, psutil.Process(pid).memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        found = measure(many_tasks, settings.tasks, cluster.scheduler_address)
        done.set()
        watcher.join()
    row = {"case": f"scheduler, {settings.tasks:,} partitions", "seconds": found.value, "partitions": settings.tasks}
    return [row | {"partitions/s": settings.tasks / found.value, "largest process, MB": most / 1e6}]


def _scheduler_pid(cluster: Any) -> int:
    port = int(cluster.scheduler_address.rsplit(":", 1)[1])
    below = psutil.Process(os.getpid()).children(recursive=True)
    for one in below:
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in one.net_connections()):
            return int(one.pid)
    raise RuntimeError("the scheduler's process was not found")


def _draw(settings: BulkSettings, last: dict[str, Measured]) -> None:
    """Draw rows finished and memory over time of each export."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    for (name, one), colour in zip(last.items(), ("#9aa5b1", "#1f6f8b", "#d8dde4", "#e07a1f", "#8a3ffc"), strict=True):
        if name == "plain write":
            continue
        begin = one.finished[0][0] if name != "export, one process" else one.resident[0][0]
        times, count = np.array(one.finished, np.float64).T
        above.plot(*_rate(times - begin, count), label=name, color=colour)
        when, nbytes = np.array(one.resident, np.float64).T
        below.plot(when - begin, nbytes / 1e9, label=name, color=colour)
    above.set(ylabel="rows/s", ylim=(0, None))
    below.set(xlabel="seconds", ylabel="memory with workers, GB", xlim=(0, None), ylim=(0, None))
    above.legend(frameon=False, ncols=2)
    above.set_title(
        f"{settings.rows:,} rows of {settings.bands}, {settings.size} px, {', '.join(settings.planes)}", loc="left"
    )
    path = Path(settings.image)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _rate(times: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times and rows/s, of twenty parts of the time."""
    edges = np.linspace(0, max(times[-1], 1e-3), 21)
    total = np.interp(edges, times, np.cumsum(rows))
    return (edges[1:] + edges[:-1]) / 2, np.diff(total) / np.diff(edges)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the figures."""
    names = BulkSettings.__dataclass_fields__
    _, own = settings_of(__doc__, {name: one.default for name, one in names.items()}, arguments)
    load = own.pop("load")
    settings = BulkSettings(**own)
    Path(settings.folder).mkdir(parents=True, exist_ok=True)
    figures = [row for case in settings.only for row in globals()[case](settings)]
    config = repository_of(settings).config
    about = f"{len(config.patch_ids)} patches, {config.compression} (RICE), planes {', '.join(settings.planes)}, one decoding thread per worker"
    report(figures, packages=("hats", "lsdb", "distributed"), load=f"{about}\n{load}")


if __name__ == "__main__":
    main()
