"""What the hardware allows beside what the loader reaches: memory bandwidth for copies, imagecodecs for decoding.

A copy of a large array gives the memory bandwidth, which no loader can exceed. For decoding the hardware has no such
figure; imagecodecs, a library decoder, is measured over the same tiles as a comparison, not as a ceiling.

Run: python -m benchmarks.ceilings [copy_bytes=1000000000] [key=value of lsstcutouts benchmark]
"""

import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from lsstcutouts.app.benchmark.measured import sample_of
from lsstcutouts.app.benchmark.ways import LoaderWay, interleaved
from lsstcutouts.fits.memory import Memory
from lsstcutouts.read.cache.tile_cache import TileCache

from .common import report, settings_of
from .tile_bytes import compressed_units, decoded, decoded_by_library

__all__ = ["copy_rate", "main"]


def copy_rate(nbytes: int, repeats: int) -> float:
    """Return the memory bandwidth, bytes copied in a second: the best of some copies of a large array."""
    source, target = np.ones(nbytes, np.uint8), np.empty(nbytes, np.uint8)
    return nbytes / min(_seconds(lambda: np.copyto(target, source)) for _ in range(repeats + 1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the figures."""
    settings, own = settings_of(__doc__, {"copy_bytes": 1_000_000_000}, arguments)
    sample = sample_of(settings, progress=True)
    sample.touch()
    parts, memory = compressed_units(sample), Memory()
    pixels = sum(unit.size for part in parts for unit in decoded(part, memory))  # compiles, too
    own_kernel, library = list[float](), list[float]()
    for _ in range(settings.repeats):
        own_kernel.append(_seconds(lambda: [decoded(part, memory) for part in parts]))
        library.append(_seconds(lambda: [decoded_by_library(part, range(len(part.units)), memory) for part in parts]))
    cache = TileCache(settings.cache_bytes)
    ways = [LoaderWay(sample, settings, state, cache, threads=1) for state in ("empty", "full")]
    empty, full = (median(rates) for rates in interleaved(ways, settings.repeats))
    cutout = 4 * len(sample.plan.bands) * len(sample.planes) * sample.plan.size.y * sample.plan.size.x
    copied = copy_rate(own["copy_bytes"], settings.repeats)
    report(
        [
            {"what": "ceiling: memory bandwidth, numpy copy of a large array", "GB/s": copied / 1e9},
            {"what": "loader, full cache, 1 thread", "GB/s": full * cutout / 1e9, "of ceiling": full * cutout / copied},
            {"what": "decoding by imagecodecs, same tiles, 1 thread", "Mpixel/s": pixels / median(library) / 1e6},
            {"what": "decoding by lsstcutouts, same tiles, 1 thread", "Mpixel/s": pixels / median(own_kernel) / 1e6},
            {"what": "loader, empty cache, 1 thread", "Mpixel/s of tiles": pixels * empty / len(sample.rows) / 1e6},
        ]
    )


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
