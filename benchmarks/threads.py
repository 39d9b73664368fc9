"""Two threads over one, for tiles that must be decoded and tiles in memory, for dense and sparse targets.

Run: python -m benchmarks.threads repo=[bench/dense,bench/sparse] [threads=[1,2]] [key=value ...] > threads.json
The repositories are those of benchmarks.peers.
"""

from collections.abc import Sequence
from statistics import median

from lsstcutouts.app.benchmark.ways import interleaved
from lsstcutouts.read.cache.tile_cache import TileCache

from .common import OurWay, report, settings_of
from .peers import SCENES, scenes_of

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print cutouts/s and what more threads bring."""
    settings, own = settings_of(__doc__, SCENES, arguments)
    counts, figures = settings.thread_counts, []
    for name, sample in scenes_of(settings, own):
        sample.touch()
        ways = []
        for cache in ("new", "first", "empty", "memory"):
            tiles = TileCache(settings.cache_bytes)
            ways += [OurWay(sample, settings, kind, cache, tiles, n) for kind in ("reader", "loader") for n in counts]
        rates = interleaved(ways, settings.repeats, least_seconds=own["least_seconds"])
        for at in range(0, len(ways), len(counts)):
            row = {"scene": name, "way": ways[at].name, "tiles": ways[at].cache}
            middle = [median(of) for of in rates[at : at + len(counts)]]
            row |= {f"threads={n}, cutouts/s": value for n, value in zip(counts, middle, strict=True)}
            figures.append(row | {f"over threads={counts[0]}": value / middle[0] for value in middle[-1:]})
    report(figures, load=own["load"])


if __name__ == "__main__":
    main()
