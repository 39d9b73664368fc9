"""Cost of a cutout by number of targets and by number of threads, always over all patches of the sample.

Targets are repeated to reach the larger numbers, so that patches, files and tiles stay the same while their number grows.

Run: python -m benchmarks.scaling [counts=[1000,10000,100000]] [targets=2000] [threads=[1,2,4]] [key=value ...]
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from lsstcutouts.app.benchmark.measured import MeasuredTargets, sample_of
from lsstcutouts.app.benchmark.ways import LoaderWay, Way, interleaved
from lsstcutouts.errors import ConfigurationError
from lsstcutouts.read.cache.tile_cache import TileCache

from .common import report, settings_of

__all__ = ["crowded", "main"]


def crowded(sample: MeasuredTargets, count: int) -> MeasuredTargets:
    """Return a sample of ``count`` targets, those of the given one evenly spread and repeated."""
    return replace(sample, rows=sample.rows[np.arange(count) * len(sample.rows) // count])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print seconds of a cutout."""
    settings, own = settings_of(__doc__, {"counts": [1000, 10_000, 100_000]}, arguments)
    sample = sample_of(settings, progress=True)
    if sample.patches < 2:
        raise ConfigurationError(
            f"targets={settings.targets} lie in one patch, which shows no scaling: give more targets="
        )
    cache = TileCache(settings.cache_bytes)
    ways: list[Way] = []
    labels = []
    for count in own["counts"]:
        for threads in settings.thread_counts:
            some = crowded(sample, count)
            ways.append(LoaderWay(some, settings, "full", cache, threads=threads))
            labels.append({"targets": count, "patches": some.patches, "threads": threads})
    for threads in settings.thread_counts:
        ways.append(LoaderWay(sample, settings, "empty", cache, threads=threads))
        labels.append({"targets": len(sample.rows), "patches": sample.patches, "threads": threads})
    rates = interleaved(ways, min(3, settings.repeats), least_seconds=0.5)
    report(
        [
            {**label, "cache": way.cache, "us/cutout": 1e6 / median(of), "cutouts/s": median(of)}
            for way, label, of in zip(ways, labels, rates, strict=True)
        ]
    )


if __name__ == "__main__":
    main()
