"""Does the resident set of a training's data path stay within its budget? Measured on a child process, from outside.

    python -m tests.support.memory REPO [--minutes 10] [--cache '300 MB'] [--limit '2 GB'] [--workers 0] [--plot memory.png]

The child runs epochs of a loader over every target of the repository (truth.parquet) for so long, with a small model's
worth of reading of each batch. The parent samples its resident set once a second, with that of its worker processes,
writes a CSV and a plot beside each other, and says whether the bound held: what the child held after its imports and
its first batch (less what its cache held by then), and the budget, and 300 MB. With --limit the child runs in a control group of that size, where one can be
made, else it is shown files of one. The exit status is 0 where the bound held, 1 where it did not, and 2 where the
child ended by itself.
"""

import argparse
import csv
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib as mpl
import psutil
from rich.console import Console

from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.cache.budget import parse_bytes
from lsstcutouts.read.cache.stats import CacheStats
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.cache.watch import SLACK
from lsstcutouts.source.limits import memory_limits

_SAMPLE_SECONDS = 1.0
console = Console()


@dataclass(frozen=True)
class Sample:
    """What was seen at one time; bytes."""

    seconds: float
    resident: int
    epoch: int
    cutouts: int
    stats: CacheStats


def child(plan_file: Path, settings: argparse.Namespace, limit: "Limit", pipe: Connection) -> None:
    """Read epochs for ever; send what is held at the first batch beside the cache, then what was read, once in a while."""
    plan = CutoutPlan.load(plan_file)
    cache = TileCache(settings.cache, limits=limit.limits)
    data = CutoutDataset(plan, batch_size=settings.batch, threads=settings.threads, cache=cache)
    loader = CutoutLoader(data, num_workers=settings.workers)
    cutouts, said = 0, 0.0
    while True:
        for batch in loader:
            cutouts += len(batch["object_id"])
            batch["image"].mean()  # type: ignore[union-attr]  # looks at every pixel
            if not said:
                stats = loader.cache_info()
                pipe.send(resident(psutil.Process()) - stats.bytes - stats.reserved)
            if time.monotonic() > said + _SAMPLE_SECONDS / 2:
                said = time.monotonic()
                pipe.send((loader.position.epoch, cutouts, loader.cache_info()))


class Limit:
    """No limit of memory."""

    def interpreter(self) -> str:
        """Return what starts the child's Python."""
        return sys.executable

    limits = staticmethod(memory_limits)


class Faked(Limit):
    """Files of a control group that say what the kernel would: the limit, and what the child holds.

    Parameters
    ----------
    folder
        Where they are written.
    nbytes
        The limit.
    """

    def __init__(self, folder: Path, nbytes: int) -> None:
        self.folder = folder
        (folder / "self").mkdir()
        (folder / "self" / "cgroup").write_text("0::/\n")
        (folder / "memory.max").write_text(f"{nbytes}\n")
        self.limits = partial(memory_limits, proc=folder, cgroup=folder)  # type: ignore[method-assign]

    def update(self, resident: int) -> None:
        """Say what the child holds."""
        (self.folder / "memory.current").write_text(f"{resident}\n")


class Grouped(Limit):
    """A control group of version 1 or 2 below this process's own.

    Parameters
    ----------
    folder
        The group.
    scratch
        Where a script can be written.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder, self.scratch = folder, scratch

    def interpreter(self) -> str:
        """Return a script that enters the group before anything is imported: what was held before stays charged elsewhere."""
        script = self.scratch / "python"
        script.write_text(f'#!/bin/sh\necho $$ > "{self.folder}/cgroup.procs"\nexec "{sys.executable}" "$@"\n')
        script.chmod(0o700)
        return str(script)


@contextmanager
def limited(text: str | None, scratch: Path) -> Iterator[Limit]:
    """Make a limit for the time of the block."""
    group = made_group(parse_bytes(text)) if text else None
    if group is not None:
        console.print(f"the child runs in the control group {group}", soft_wrap=True)
        try:
            yield Grouped(group, scratch)
        finally:
            group.rmdir()
    elif text:
        console.print("no control group can be made here: the child is shown files of one")
        yield Faked(scratch, parse_bytes(text))
    else:
        yield Limit()


def made_group(nbytes: int) -> Path | None:
    """Return a new control group below this process's own, None where none can be made."""
    root = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        one = "memory" in controllers.split(",")
        if not one and controllers:
            continue
        group = (root / "memory" if one else root) / path.lstrip("/") / f"lsstcutouts-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / ("memory.limit_in_bytes" if one else "memory.max")).write_text(str(nbytes))
        except OSError:  # version 2 without the memory controller
            group.rmdir()
        else:
            return group
    return None


def resident(process: psutil.Process) -> int:
    """Return the resident sets of a process and of its workers; helpers of multiprocessing hold next to nothing."""
    return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))


def watched(plan_file: Path, settings: argparse.Namespace, limit: Limit) -> tuple[int, list[Sample], bool]:
    """Return what the child held at first, a sample a second, and whether the child lived to the end."""
    resource_tracker.ensure_running()  # it outlives the child, and is not to hold its group
    context = multiprocessing.get_context("spawn")
    context.set_executable(limit.interpreter())
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(plan_file, settings, limit, its))
    process.start()
    its.close()
    first, samples = 0, list[Sample]()
    try:
        first, latest = mine.recv(), mine.recv()  # waits for the first batch
        start = time.monotonic()
        while time.monotonic() < start + 60 * settings.minutes:
            held = resident(psutil.Process(process.pid))
            if isinstance(limit, Faked):
                limit.update(held)
            while mine.poll():
                latest = mine.recv()
            samples.append(Sample(time.monotonic() - start, held, *latest))
            time.sleep(_SAMPLE_SECONDS)
    except (EOFError, psutil.NoSuchProcess):
        process.join()
        console.print(f"the child ended by itself, exit status {process.exitcode}")
        return first, samples, False
    finally:
        process.kill()
        process.join()
    return first, samples, True


def draw(first: int, samples: list[Sample], path: Path, title: str) -> None:
    """Plot the resident set over time, with what it may be."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, height_ratios=(2, 1), layout="constrained")
    minutes = [s.seconds / 60 for s in samples]
    budget = samples[-1].stats.max_bytes
    upper.plot(minutes, [s.resident / 1e6 for s in samples], color="black", label="resident set")
    lines = {"after imports and first batch": first, "+ budget": first + budget, "+ 300 MB": first + budget + SLACK}
    for (name, height), color in zip(lines.items(), ("tab:green", "tab:orange", "tab:red"), strict=True):
        upper.axhline(height / 1e6, color=color, linestyle="--", label=f"{name}: {height / 1e6:.0f} MB")
    upper.set(ylabel="MB", ylim=(0, None), title=title)
    upper.legend(loc="lower right")
    lower.plot(minutes, [s.stats.bytes / 1e6 for s in samples], label="tiles in the cache")
    lower.plot(minutes, [s.stats.reserved / 1e6 for s in samples], label="batches under way")
    lower.axhline(budget / 1e6, color="tab:orange", linestyle="--", label="budget")
    lower.set(xlabel="minutes", ylabel="MB", ylim=(0, None))
    lower.legend(loc="center right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(samples: list[Sample], path: Path) -> None:
    """Write the samples as CSV."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seconds", "resident", "epoch", "cutouts", "tiles", "reserved", "hit_rate", "evictions"])
        for s in samples:
            held = s.stats.bytes, s.stats.reserved, f"{s.stats.hit_rate:.4f}", s.stats.evictions
            rows.writerow([f"{s.seconds:.1f}", s.resident, s.epoch, s.cutouts, *held])


def verdict(first: int, samples: list[Sample]) -> bool:
    """Say what came of it; return whether the bound held."""
    last = samples[-1]
    most = max(s.resident for s in samples)
    bound = first + last.stats.max_bytes + SLACK
    held = most <= bound
    console.print(
        f"{last.seconds / 60:.1f} min, {last.epoch + 1} epochs, {last.cutouts:,} cutouts, hit rate "
        f"{last.stats.hit_rate:.1%}, {last.stats.evictions:,} evictions, {last.stats.read_per_useful:.2f} bytes read per "
        f"useful byte\nresident set: {first / 1e6:.0f} MB after imports and first batch, at most "
        f"{most / 1e6:.0f} MB, at the end {last.resident / 1e6:.0f} MB; bound {bound / 1e6:.0f} MB with a budget of "
        f"{last.stats.max_bytes / 1e6:.0f} MB\n{'the bound held' if held else 'THE BOUND DID NOT HOLD'}: "
        f"{(most - first - last.stats.max_bytes) / 1e6:+.0f} MB beside the budget, of 300 allowed",
        highlight=False,
        soft_wrap=True,
    )
    return held


def parsed() -> argparse.Namespace:
    """Return the command line's settings."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.memory", description=__doc__.splitlines()[0])
    parser.add_argument("repo", type=Path, help="a simulated repository")
    parser.add_argument("--collections", default="dp2")
    parser.add_argument("--bands", default="ugrizy")
    parser.add_argument("--size", type=int, default=64, help="pixels of a cutout")
    parser.add_argument("--batch", type=int, default=128, help="targets a batch")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cache", default="300 MB", help="cache_bytes")
    parser.add_argument("--limit", help="memory that the child may take in all")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int, default=0, help="worker processes")
    parser.add_argument("--plot", type=Path, default=Path("memory.png"))
    return parser.parse_args()


def main() -> int:
    """Run."""
    settings = parsed()
    with TemporaryDirectory() as folder, limited(settings.limit, Path(folder)) as limit:
        plan_file = Path(folder) / "plan.parquet"
        truth = settings.repo / "truth.parquet"
        size, bands = settings.size, settings.bands
        build_plan(settings.repo, truth, collections=settings.collections, bands=bands, size=size).save(plan_file)
        first, samples, alive = watched(plan_file, settings, limit)
    if not samples:
        return 2
    limited_to = f", limit {settings.limit}" if settings.limit else ""
    title = f"cache_bytes={settings.cache!r}{limited_to}, {settings.workers} worker processes"
    draw(first, samples, settings.plot, title)
    write(samples, settings.plot.with_suffix(".csv"))
    held = verdict(first, samples)
    return 2 if not alive else 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
