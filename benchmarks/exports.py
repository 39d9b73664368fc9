"""Batches of an export beside a TensorDataset of the same batches, the repository, and read() of the same bytes.

Run: python -m benchmarks.exports [demo=demo/repo] [folder=bench/export] [rows=6000] [key=value ...] > exports.json
The export is written again: ``rows`` targets around those of the simulated repository, which is written first if it does not
exist. ``spread`` is the share of the repository's targets that they are around: a small one makes them dense. One process with
``threads`` threads reads batches of ``batch_size``, in shuffled order. Each figure is the median of ``repeats``; the cold ones
begin with no file of the export in the page cache.
"""

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, TensorDataset

from lsstcutouts import Catalog, CutoutDataset, CutoutLoader, CutoutPlan, Sampling, build_plan, export, export_plan
from lsstcutouts.app.benchmark.measured import BenchmarkSettings
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from .common import report, settings_of, simulated
from .layouts.page_cache import drop

__all__ = ["main"]

_OWN = {"folder": "bench/export", "rows": 6000, "spread": 1.0, "partition_bytes": 400_000_000, "most_seconds": 5.0}

_DEMO = SimulationConfig(release="dp2", cells=10, cell=150, patches=2, bands="ugrizy", targets=2400, seed=0)
"""The demo of the command ``train``."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the export, measure, and print rows/s and ratios."""
    settings, own = settings_of(__doc__, _OWN, arguments)
    repository = simulated(settings.demo, _DEMO)
    catalog = _catalog(repository, own["rows"], own["spread"], settings.seed)
    bands, folder = "".join(settings.bands or repository.bands), Path(own["folder"])
    common: dict[str, Any] = {"collections": repository.collections, "bands": bands, "size": settings.size}
    common["dataset_type"] = repository.dataset_type
    shutil.rmtree(folder, ignore_errors=True)
    start = perf_counter()
    planes = settings.planes
    written = export(catalog, repository.root, folder, planes=planes, partition_bytes=own["partition_bytes"], **common)
    sys.stderr.write(f"{written.rows} rows, {written.bytes / 1e6:.0f} MB in {perf_counter() - start:.0f} s\n")
    plans = export_plan(folder), build_plan(repository.root, catalog, **common)
    figures = [_measured(settings, plans, folder, threads, own) for threads in settings.thread_counts]
    report(figures, load=own["load"])


def _catalog(repository: SimulatedRepository, rows: int, spread: float, seed: int) -> Catalog:
    """Return positions within 2 arcsec of those of the repository."""
    rng = np.random.default_rng(seed)
    truth = pq.read_table(repository.truth)
    near = np.arange(rows) % max(1, round(spread * len(truth)))
    shift = rng.uniform(-1, 1, (2, rows)) * 2 / 3600
    ra, dec = (truth[name].to_numpy()[near] for name in ("ra", "dec"))
    return Catalog.from_arrays(ra + shift[0], dec + shift[1], unit="deg")


def _measured(
    settings: BenchmarkSettings, plans: tuple[CutoutPlan, CutoutPlan], folder: Path, threads: int, own: dict[str, Any]
) -> dict[str, Any]:
    exported, plan = plans
    files = sorted(folder.glob("cutouts/dataset/Norder=*/Dir=*/*.parquet"))
    most, rates = own["most_seconds"], dict[str, list[float]]()
    tiles = TileCache(settings.cache_bytes)
    tensors = _tensors(exported, settings, int(2e9))
    memory = DataLoader(tensors, batch_size=settings.batch_size, shuffle=True)
    block = _loader(exported, settings, threads, Sampling())
    whole = _loader(exported, settings, threads, Sampling(shuffle="full"))
    of_files = _loader(plan, settings, threads, Sampling(), tiles)
    ways = {"TensorDataset": memory, "export, blocks": block, "export, permutation": whole}
    for _ in range(settings.repeats):
        _read(files)
        for name, loader in ways.items():
            rates.setdefault(name, []).append(_rate(loader, most))
        tiles.clear()
        rates.setdefault("repository", []).append(_rate(of_files, most))
        drop(files)
        start = perf_counter()
        count = _read(files)
        rates.setdefault("read()", []).append(
            len(exported) * count / sum(f.stat().st_size for f in files) / (perf_counter() - start)
        )
        drop(files)
        rates.setdefault("export, cold", []).append(_rate(_loader(exported, settings, threads, Sampling()), 1e9))
    middle = {name: median(of) for name, of in rates.items()}
    ratios = {
        "over TensorDataset": middle["export, blocks"] / middle["TensorDataset"],
        "over repository": middle["export, blocks"] / middle["repository"],
        "cold over read()": middle["export, cold"] / middle["read()"],
    }
    return {
        "threads": str(threads),
        "rows": len(exported),
        **{f"{name}, rows/s": v for name, v in middle.items()},
        **ratios,
    }


def _loader(
    plan: CutoutPlan, settings: BenchmarkSettings, threads: int, sampling: Sampling, cache: TileCache | None = None
) -> CutoutLoader:
    dataset = CutoutDataset(
        plan, batch_size=settings.batch_size, planes=settings.planes, sampling=sampling, threads=threads, cache=cache
    )
    return CutoutLoader(dataset, pin_memory=False)


def _tensors(plan: CutoutPlan, settings: BenchmarkSettings, most_bytes: int) -> TensorDataset:
    """Return the images of the first rows, and their ids."""
    rows = np.arange(min(len(plan), most_bytes // (4 * len(plan.bands) * plan.size.y * plan.size.x)))
    planes = settings.planes
    dataset = CutoutDataset(
        plan, rows=rows, batch_size=settings.batch_size, planes=planes, sampling=Sampling(shuffle=False)
    )
    found: dict[str, list[torch.Tensor]] = {}
    for batch in dataset:
        for name in (*planes, "object_id"):
            found.setdefault(name, []).append(torch.as_tensor(batch[name]).clone())
    return TensorDataset(*map(torch.cat, found.values()))


def _rate(batches: Iterable[Any], most_seconds: float) -> float:
    """Return rows a second until the batches end, or the time."""
    count, start = 0, perf_counter()
    for batch in batches:
        count += len(batch["object_id"] if isinstance(batch, dict) else batch[-1])
        if perf_counter() - start > most_seconds:
            break
    return count / (perf_counter() - start)


def _read(files: Sequence[Path]) -> int:
    """Read files from start to end into the same memory; return the number of bytes."""
    memory, count = memoryview(bytearray(2**22)), 0
    for file in files:
        with file.open("rb", buffering=0) as open_file:
            while found := open_file.readinto(memory):
                count += found
    return count


if __name__ == "__main__":
    main()
