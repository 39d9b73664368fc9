"""The verb ``benchmark``: from a configuration to a table, a JSON file and a picture."""

import gc
import json
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ...fits.stages import StageClock
from ...loader.device.transfer import resolved
from ...read.cache.tile_cache import TileCache
from ...source.writing import atomic_file
from .machine import about_machine, load_now
from .measured import BenchmarkSettings, MeasuredTargets, sample_of
from .picture import write_picture
from .result import BenchmarkEntry, BenchmarkResult, StageShares, TileNeed, advice, limits
from .ways import ButlerWay, LoaderWay, MemoryWay, ReaderWay, Way, check_pixels, interleaved

__all__ = ["benchmark", "run"]

_SHARED = 64
"""Targets of a pass for each thread, below which a thread has nothing to do: a batch is divided into parts of 32 or more."""

_PROFILE_SECONDS = 0.5


def run(cfg: DictConfig) -> BenchmarkResult:
    """Measure what a configuration (``configs/benchmark.yaml``) describes; print it unless ``json`` is set."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        values["output"] = HydraConfig.get().runtime.output_dir  # each job of a sweep has its own
    result = benchmark(BenchmarkSettings.of(values), progress=not values["json"])
    if not values["json"]:
        Console(highlight=False).print(result.shown())
    return result


def benchmark(settings: BenchmarkSettings, *, progress: bool = False) -> BenchmarkResult:
    """Measure, and write ``benchmark.json`` and ``benchmark.png`` into the folder ``settings.output``.

    Parameters
    ----------
    settings
        What to measure.
    progress
        Whether to show a progress bar on standard error.

    Raises
    ------
    PixelMismatchError
        Two ways give different pixels.
    ConfigurationError
        There is no such device, or nothing to measure.
    """
    load = load_now()  # before this program adds its own
    resolved(settings.device)  # an error for a missing GPU comes before anything is measured
    sample = sample_of(settings, progress=progress)
    sample.touch()
    console = Console(stderr=True, quiet=not progress)
    with ExitStack() as stack:
        shared = TileCache(settings.cache_bytes)
        ways, left_out = _ways(sample, settings, shared)
        for way in ways:
            stack.callback(way.close)
        check_pixels(ways, sample)
        gc.collect()  # so that it falls into nobody's run
        columns = (TextColumn("measuring"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=len(ways) * settings.repeats)
            rates = interleaved(
                ways, settings.repeats, most_seconds=settings.seconds, after=lambda _: bar.advance(task)
            )
        entries = [_entry(way, sample, each) for way, each in zip(ways, rates, strict=True)]
        entries = [_profiled(entry, sample, settings, shared) for entry in entries]
        tiles = _tile_need(sample, settings)
    machine, output = about_machine(), Path(settings.output)
    warning = "\nThe machine was busy: figures are too low" if load.busy else ""
    title = f"{sample}\n{machine['cpu']}, {machine['usable_cores']} cores, {machine['date'][:10]}{warning}"
    picture = write_picture(output / "benchmark.png", entries, title)
    path = output / "benchmark.json"
    result = BenchmarkResult(
        settings,
        load,
        machine,
        _sample_values(sample),
        entries,
        tiles,
        limits(entries),
        advice(entries, tiles, load.busy),
        left_out,
        (str(picture), str(path)),
    )
    with atomic_file(path) as part:
        part.write_text(json.dumps(result.as_dict(), indent=1) + "\n")
    return result


def _ways(sample: MeasuredTargets, settings: BenchmarkSettings, shared: TileCache) -> tuple[list[Way], list[str]]:
    """Return the ways that are measured, the reference first, and what is left out and why."""
    ways: list[Way] = []
    left_out = []
    butler = ButlerWay(sample, settings.butler_targets)
    if butler.needs_stack:
        butler.close()
        left_out.append("butler.get, which needs the LSST stack for files written by afw")
    else:
        ways.append(butler)
    for cache in settings.cache:
        ways.append(ReaderWay(sample, settings, cache, shared))
        for threads in settings.thread_counts:
            if threads > 1 and len(sample.rows) < _SHARED * threads:
                text = f"threads={threads}: {len(sample.rows)} targets are too few to be shared by so many threads"
                left_out += [text] if text not in left_out else []
            elif 0 in settings.workers:
                ways.append(LoaderWay(sample, settings, cache, shared, threads=threads))
        if cache == "full":
            many = [count for count in settings.workers if count]
            ways += [LoaderWay(sample, settings, cache, shared, threads=1, workers=count) for count in many]
    ways.append(MemoryWay(ReaderWay(sample, settings, "empty", shared), sample, settings.batch_size))
    return ways, left_out


def _entry(way: Way, sample: MeasuredTargets, rates: tuple[float, ...]) -> BenchmarkEntry:
    targets = len(way.rows) if isinstance(way, ButlerWay) else len(sample.rows)
    start = way.start_seconds if isinstance(way, LoaderWay) else None
    return BenchmarkEntry(way.name, way.cache, way.threads, way.workers, targets, rates, start_seconds=start)


def _profiled(
    entry: BenchmarkEntry, sample: MeasuredTargets, settings: BenchmarkSettings, shared: TileCache
) -> BenchmarkEntry:
    """Return the entry of a loader with the time by stage, from further passes with a clock."""
    if entry.way != "loader" or entry.workers:
        return entry
    clock, wall, cutouts, evictions = StageClock(), 0.0, 0, 0
    way = LoaderWay(sample, settings, entry.cache, shared, threads=entry.threads, clock=clock)
    while wall < _PROFILE_SECONDS:
        one_pass = way.prepare()
        if not cutouts:
            clock.reset()
        before, start = way.tiles.stats(), time.perf_counter()
        cutouts += one_pass()
        wall += time.perf_counter() - start
        evictions = (way.tiles.stats() - before).evictions
    way.close()
    return replace(entry, stages=StageShares.of(clock.seconds(), wall, cutouts, evictions))


def _tile_need(sample: MeasuredTargets, settings: BenchmarkSettings) -> TileNeed:
    """Return the memory that decoded tiles of the whole plan need, in proportion to its patches."""
    cache = TileCache(settings.cache_bytes)
    reader = LoaderWay(sample, settings, "full", cache, threads=1)
    reader.prepare()
    stats = cache.stats()
    reader.close()
    return TileNeed(int(stats.bytes / sample.patches * sample.all_patches), stats.max_bytes)


def _sample_values(sample: MeasuredTargets) -> dict[str, Any]:
    return {
        "text": str(sample),
        "targets": len(sample.rows),
        "plan_targets": len(sample.plan),
        "patches": sample.patches,
        "plan_patches": sample.all_patches,
        "plan_seconds": sample.plan_seconds,
        "size": list(sample.plan.size),
        "bands": list(sample.plan.bands),
        "planes": list(sample.planes),
    }
