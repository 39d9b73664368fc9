"""Several threads over one, with every tile to be decoded and with all tiles in memory, and where their time goes.

Run: python -m benchmarks.threads [threads=[1,2]] [key=value of lsstcutouts benchmark]
"""

import resource
import time
from collections.abc import Callable, Sequence
from statistics import median

from lsstcutouts.app.benchmark.measured import sample_of
from lsstcutouts.app.benchmark.ways import LoaderWay
from lsstcutouts.fits.stages import StageClock
from lsstcutouts.read.cache.tile_cache import TileCache

from .common import report, settings_of

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure passes in turn, and print cutouts/s, CPU, voluntary switches and stages."""
    settings, _ = settings_of(__doc__, {}, arguments)
    sample = sample_of(settings, progress=True)
    sample.touch()
    shared = TileCache(settings.cache_bytes)
    counts = settings.thread_counts
    keys = [(state, threads) for state in ("empty", "full") for threads in counts]
    clocks = {key: StageClock() for key in keys}
    ways = {key: LoaderWay(sample, settings, key[0], shared, threads=key[1], clock=clocks[key]) for key in keys}
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {key: [] for key in keys}
    for key in keys:
        ways[key].prepare()()
        clocks[key].reset()
    for _ in range(max(5, settings.repeats)):
        for key in keys:
            found[key].append(_timed(ways[key].prepare()))
    one = {state: median(rate for rate, _, _ in found[state, counts[0]]) for state in ("empty", "full")}
    rows = []
    for (state, threads), passes in found.items():
        rate, cpu, switches = (median(one_pass[i] for one_pass in passes) for i in range(3))
        spent = clocks[state, threads].seconds()
        work = {name: seconds for name, seconds in spent.items() if name in {"locate", "read", "decode", "assemble"}}
        stages = {f"{name} (us)": 1e6 * seconds / len(passes) / len(sample.rows) for name, seconds in work.items()}
        rows.append(
            {
                "cache": state,
                "threads": threads,
                "cutouts/s": rate,
                f"over {counts[0]}": rate / one[state],
                "CPU (us/cutout)": cpu,
                "switches/cutout": switches,
                **stages,
            }
        )
    report(rows, patches=sample.patches)


def _timed(one_pass: Callable[[], int]) -> tuple[float, float, float]:
    """Return cutouts a second, microseconds of CPU and voluntary context switches for each."""
    before, cpu, start = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw, time.process_time(), time.perf_counter()
    count = one_pass()
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
    return count / seconds, 1e6 * used / count, switches / count


if __name__ == "__main__":
    main()
