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
from ...read.cache.stats import CacheStats
from ...read.cache.tile_cache import TileCache
from ...source.writing import atomic_file
from .machine import about_machine, load_now
from .measured import BenchmarkSettings, MeasuredTargets, sample_of
from .picture import write_picture
from .result import BenchmarkEntry, BenchmarkResult, StageShares, TileNeed, advice, limits, scatter
from .ways import ButlerWay, LoaderWay, MemoryWay, ReaderWay, Way, check_pixels, interleaved

__all__ = ["benchmark", "run"]

_SHARED = 64
"""Targets of a pass for each thread, below which a thread has nothing to do: a batch is divided into parts of 32 or more."""

_PROFILE_SECONDS = 0.5


def run(cfg: DictConfig) -> BenchmarkResult:
    """Run the benchmark with the settings of ``configs/benchmark.yaml``; print the result unless ``json`` is set."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        values["output"] = HydraConfig.get().runtime.output_dir  # each job of a sweep has its own
    result = benchmark(BenchmarkSettings.of(values), progress=not values["json"])
    if not values["json"]:
        Console(highlight=False).print(result.shown())
    return result


def benchmark(settings: BenchmarkSettings, *, progress: bool = False) -> BenchmarkResult:
    """Measure, and write ``benchmark.json`` and ``benchmark.png`` into the folder ``settings.output``.

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
        entries = [_entry(*each, sample, settings, shared) for each in zip(ways, rates, strict=True)]
        tiles = _tile_need(sample, settings)
    machine, output, spread = about_machine(), Path(settings.output), scatter(entries)
    disturbed = load.busy or bool(spread)
    warning = "\nother programs kept the machine busy: the figures are too low" if disturbed else ""
    title = f"{sample}\n{machine['cpu']}, {machine['usable_cores']} cores, {machine['date'][:10]}{warning}"
    picture = write_picture(output / "benchmark.png", entries, title)
    path = output / "benchmark.json"
    result = BenchmarkResult(
        settings,
        load,
        spread,
        machine,
        sample.values(),
        entries,
        tiles,
        limits(entries, settings.batch_size),
        advice(entries, tiles, disturbed),
        left_out,
        (str(picture), str(path)),
    )
    with atomic_file(path) as part:
        part.write_text(json.dumps(result.as_dict(), indent=1) + "\n")
    return result


def _ways(sample: MeasuredTargets, settings: BenchmarkSettings, shared: TileCache) -> tuple[list[Way], list[str]]:
    """Return the ways that are measured, the reference first, and what is left out and why."""
    ways, left_out = list[Way](), list[str]()
    butler = ButlerWay(sample, settings.butler_targets)
    if butler.needs_stack:
        butler.close()
        left_out.append("butler.get, which needs the LSST stack for files written by afw")
    else:
        ways.append(butler)
    counts = [n for n in settings.thread_counts if n == 1 or len(sample.rows) >= _SHARED * n]
    for threads in sorted({*settings.thread_counts} - {*counts}):
        left_out.append(f"threads={threads}: {len(sample.rows)} targets are too few to be shared by so many threads")
    for cache in settings.cache:
        ways.append(ReaderWay(sample, settings, cache, shared))
        for workers in settings.workers:
            if not workers:
                ways += [LoaderWay(sample, settings, cache, shared, threads=n) for n in counts]
            elif cache == "full":
                ways.append(LoaderWay(sample, settings, cache, shared, threads=1, workers=workers))
    return [*ways, MemoryWay(sample, settings)], left_out


def _entry(
    way: Way, rates: tuple[float, ...], sample: MeasuredTargets, settings: BenchmarkSettings, shared: TileCache
) -> BenchmarkEntry:
    """Return what was measured of a way; further passes with a clock give the time by stage of a loader."""
    targets = len(way.rows) if isinstance(way, ButlerWay) else len(sample.rows)
    entry = BenchmarkEntry(way.name, way.cache, way.threads, way.workers, targets, rates)
    if not isinstance(way, LoaderWay) or way.workers:
        return replace(entry, start_seconds=way.start_seconds) if isinstance(way, LoaderWay) else entry
    clock, wall, cutouts, tiles = StageClock(), 0.0, 0, CacheStats()
    timed = LoaderWay(sample, settings, way.cache, shared, threads=way.threads, clock=clock)
    while wall < _PROFILE_SECONDS:
        one_pass = timed.prepare()
        if not cutouts:
            clock.reset()
        before, start = timed.tiles.stats(), time.perf_counter()
        cutouts += one_pass()
        wall += time.perf_counter() - start
        tiles += timed.tiles.stats() - before
    timed.close()
    return replace(entry, stages=StageShares.of(clock.seconds(), wall, cutouts, tiles.hit_rate))


def _tile_need(sample: MeasuredTargets, settings: BenchmarkSettings) -> TileNeed:
    """Return the memory that decoded tiles of the whole plan need, in proportion to its patches."""
    way = LoaderWay(sample, settings, "empty", TileCache(settings.cache_bytes), threads=1)
    way.prepare()()
    stats = way.tiles.stats()
    # A small cache has dropped tiles: what it still holds is too little.
    whole = stats.bytes / max(1, stats.entries) * stats.misses
    return TileNeed(int(whole / sample.patches * sample.all_patches), stats.max_bytes)
