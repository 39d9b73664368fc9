"""Microseconds of a cutout by number of patches, targets, bands, pixels and planes, for tiles that must be decoded and in memory.

Run: python -m benchmarks.scaling folder=bench [quick=true] [repo=bench/sparse] [key=value of lsstcutouts benchmark] > scaling.json

Repositories of 9, 36, 144 and 400 patches of 10 x 10 cells in two bands are written into the folder once (the last one in a
quarter of an hour, 5 GB); with quick=true only the first two. The other series read repo=, the sparse repository of
benchmarks.peers, with 5 targets in each patch.

Each number of patches has the same number of targets (patch_targets=), or per_patch= targets in each patch. Where tiles must be
decoded, many targets in few patches share tiles: `us/tile` is what can be compared there, or `us/cutout` with per_patch=.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from lsstcutouts.app.benchmark.measured import BenchmarkSettings, MeasuredTargets
from lsstcutouts.app.benchmark.ways import interleaved
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.testing import SimulationConfig

from .common import OurWay, report, scene, settings_of, simulated

__all__ = ["crowded", "main"]

DEFAULTS = {
    "folder": "bench",
    "repo": "bench/sparse",
    "quick": False,
    "least_seconds": 0.2,
    "sides": [3, 6, 12, 20],
    "cells": 10,
    "patch_targets": 2000,
    "per_patch": None,
    "counts": [1000, 10_000, 100_000, 1_000_000],
    "sizes": [32, 64, 128, 256],
    "plane_sets": [["image"], ["image", "variance"], ["image", "variance", "mask"]],
    "series": ["patches", "targets", "bands", "size", "planes"],
}


def crowded(sample: MeasuredTargets, count: int) -> MeasuredTargets:
    """Return a sample of ``count`` targets, those of the given one evenly spread and repeated."""
    return replace(sample, rows=sample.rows[np.arange(count) * len(sample.rows) // count])


def _by_patches(settings: BenchmarkSettings, own: Mapping[str, Any]) -> Iterator[tuple[str, MeasuredTargets]]:
    for side in own["sides"][: 2 if own["quick"] else None]:
        many = own["per_patch"] * side**2 if own["per_patch"] else own["patch_targets"]
        config = SimulationConfig(
            cells=own["cells"], grid=max(10, side), patches=side, bands="gr", targets=many * 5 // 4, missing=None, holes=False
        )  # fmt: skip
        root = Path(own["folder"]) / f"scaling-{side}x{side}-{own['cells']}-{config.targets}"
        yield (
            str(side**2),
            scene(simulated(root, config), replace(settings, targets=many), bands="gr", per_patch=own["per_patch"]),
        )


def _samples(settings: BenchmarkSettings, own: Mapping[str, Any], series: str) -> Iterator[tuple[str, MeasuredTargets]]:
    """Yield what is varied and the targets of each point of a series."""
    if series == "patches":
        yield from _by_patches(settings, own)
        return
    repository = simulated(own["repo"])
    bands = settings.bands or repository.bands
    if series == "targets":
        sample = scene(repository, settings, per_patch=5)
        yield from ((str(count), crowded(sample, count)) for count in own["counts"])
    elif series == "bands":
        for count in range(1, len(bands) + 1):
            yield str(count), scene(repository, settings, bands=bands[:count], per_patch=5)
    elif series == "size":
        yield from ((str(size), scene(repository, settings, size=size, per_patch=5)) for size in own["sizes"])
    else:
        for planes in own["plane_sets"]:
            yield " + ".join(planes), scene(repository, settings, planes=tuple(planes), per_patch=5)


def _figures(settings: BenchmarkSettings, own: Mapping[str, Any], series: str) -> list[dict[str, Any]]:
    """Return a row for each point of a series and state of the cache; all points take turns."""
    ways, labels = [], list[dict[str, Any]]()
    for varied, sample in _samples(settings, own, series):
        sample.touch()
        for state in ("empty", "memory"):
            if state == "memory" or series != "targets":
                ways.append(OurWay(sample, settings, "reader", state, TileCache(settings.cache_bytes), 1))
                labels.append({"series": series, "of": varied, "tiles": state, "targets": len(sample.rows)})
    decoded = []
    for way in ways:
        one_pass, before = way.prepare(), way.tiles.stats().misses
        one_pass()
        decoded.append(way.tiles.stats().misses - before)
    rates = interleaved(ways, settings.repeats, least_seconds=own["least_seconds"])
    figures, first = list[dict[str, Any]](), dict[tuple[str, str], float]()
    for label, tiles, of in zip(labels, decoded, rates, strict=True):
        row = label | {"us/cutout": 1e6 / median(of), "tiles/cutout": tiles / label["targets"]}
        if tiles:
            row["us/tile"] = row["us/cutout"] / row["tiles/cutout"]
        for name in [name for name in ("us/cutout", "us/tile") if name in row]:
            row[f"{name} over the first"] = row[name] / first.setdefault((label["tiles"], name), row[name])
        figures.append(row)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print microseconds of a cutout."""
    settings, own = settings_of(__doc__, DEFAULTS, arguments)
    figures = []
    for series in own["series"]:
        figures += _figures(settings, own, series)
    report(figures, load=own["load"])


if __name__ == "__main__":
    main()
