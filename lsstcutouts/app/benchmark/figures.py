"""Further figures: hit rate, time to the first batch, cost by size of the catalog, waiting of a training loop."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ...catalog.targets import Catalog
from ...loader.dataset import CutoutDataset
from ...loader.loader import CutoutLoader
from ...models.networks import LensFinder
from ...plan.cutout_plan import CutoutPlan
from ...plan.planner import build_plan
from ...read.cache.tile_cache import TileCache
from ...read.fetcher import LsstDataFetcher
from ...read.reader import default_threads
from .fields import Field
from .figure import Figure
from .ours import consume
from .settings import Settings

__all__ = ["Waiting", "hit_rate", "measure_scaling", "measure_start", "measure_waiting"]

_QUERIES = 10
_WAITING_BATCH = 32
"""Targets a batch of the training loop: 16 steps for 500 targets."""

_FEW = 1000

_IMPORT = """
import sys, time
start = time.perf_counter()
import lsstcutouts
print(time.perf_counter() - start, "torch" in sys.modules)
"""

_FIRST = """
import sys, time
from lsstcutouts import CutoutDataset, CutoutLoader, CutoutPlan
plan = CutoutPlan.load(sys.argv[1])
loader = CutoutLoader(CutoutDataset(plan, batch_size=int(sys.argv[2])))
start = time.perf_counter()
batch = next(iter(loader))
print(time.perf_counter() - start, len(batch["image"]))
"""


def hit_rate(field: Field, settings: Settings) -> Figure:
    """Return the share of tile requests that are served without a decode when queries of one patch are repeated."""
    ra, dec = field.plan.ra[field.rows], field.plan.dec[field.rows]
    with LsstDataFetcher(
        field.place.repo,
        size=field.scene.size,
        **field.place.names(),
        cache_bytes=settings.cache_bytes,
    ) as fetcher:
        fetcher.fetch(ra, dec)
        first = fetcher.cache_info()
        for _ in range(_QUERIES - 1):
            fetcher.fetch(ra, dec)
        total = fetcher.cache_info()
    detail = f"{len(ra)} targets, {_QUERIES} queries; with the first query, which decodes: {total.hit_rate:.3f}"
    return Figure("hit rate on repeated queries of one patch", (total - first).hit_rate, detail=detail)


def measure_start(field: Field, settings: Settings) -> list[Figure]:
    """Return the time of the import and to the first batch, each in fresh processes, one after the other."""
    with tempfile.TemporaryDirectory(prefix="lsstcutouts-benchmark-") as folder:
        path = Path(folder) / "plan.parquet"
        field.plan.save(path)
        imports = [_fresh(_IMPORT) for _ in range(settings.repeats)]
        first = [_fresh(_FIRST, str(path), str(settings.batch_size)) for _ in range(settings.repeats)]
    brings = any(told[1] == "True" for told in imports)
    seconds = median(float(told[0]) for told in imports)
    torch_told = "brings torch" if brings else "without torch"
    return [
        Figure("import lsstcutouts", seconds, "s", f"{torch_told}; a fresh process"),
        Figure(
            "first batch after the constructor returns",
            median(float(told[0]) for told in first),
            "s",
            f"{first[0][1]} cutouts, all cores, a fresh process that has its plan",
        ),
    ]


def _fresh(code: str, *arguments: str) -> list[str]:
    """Run code in a new interpreter and return the words that it prints last."""
    call = [sys.executable, "-c", code, *arguments]
    told = subprocess.run(call, capture_output=True, text=True, check=True)  # noqa: S603 - code of this module
    return told.stdout.splitlines()[-1].split()


def measure_scaling(field: Field, settings: Settings) -> Figure:
    """Return the cost of a cutout among many targets over that among 1000, on the same patch, warm."""
    cache = TileCache(settings.cache_bytes)
    counts = min(_FEW, settings.scaling_targets), settings.scaling_targets
    loaders = [
        CutoutLoader(CutoutDataset(_crowd(field, n), batch_size=settings.batch_size, cache=cache)) for n in counts
    ]
    consume(loaders[1])  # every tile is decoded now
    costs: list[list[float]] = [[], []]
    for _ in range(min(3, settings.repeats)):
        for loader, of in zip(loaders, costs, strict=True):
            of.append(_cost(loader, settings.least_seconds))
    few, many = map(median, costs)
    detail = f"{1 / few:,.0f} and {1 / many:,.0f} cutouts/s, warm, shuffled, {default_threads()} threads"
    what = f"cost of a cutout at {counts[1]:,} targets over {counts[0]:,}"
    return Figure(what, many / few, detail=detail)


def _cost(loader: CutoutLoader, least_seconds: float) -> float:
    """Return seconds a cutout."""
    count, seconds = 0, 0.0
    while seconds < least_seconds or not count:
        start = time.perf_counter()
        count += consume(loader)
        seconds += time.perf_counter() - start
    return seconds / count


def _crowd(field: Field, count: int) -> CutoutPlan:
    """Return a plan of so many targets, spread evenly over the patch of a field."""
    rng = np.random.default_rng(count)
    inner = field.plan.patches.inner_box(int(field.plan.primary[field.rows[0]]))
    tract = int(field.plan.tract[field.rows[0]])
    # Targets at the very edge of the tract would belong to the neighbouring one.
    y, x = (low + rng.uniform(0.05, 0.95, count) * (high - low) for low, high in (inner[:2], inner[2:]))
    ra, dec = field.plan.projections[tract].pixel_to_sky(y, x)
    return build_plan(Catalog.from_arrays(ra, dec), field.place.repo, size=field.scene.size, **field.place.names())


@dataclass(frozen=True)
class Waiting:
    """How a training loop spends its time.

    Attributes
    ----------
    figure
        Share of the step time that the loop waits for data, the first batch left out.
    detail
        What else was measured, plain values.
    """

    figure: Figure
    detail: dict[str, Any]


def measure_waiting(field: Field, settings: Settings) -> Waiting:
    """Train the demo's network for one pass over cold targets, and see how long the loop waits for data.

    The network has all cores but one, as decoding has that one: as with a GPU, neither takes the other's.
    """
    before = torch.get_num_threads()
    threads = max(1, default_threads() - 1)
    torch.set_num_threads(threads)
    try:
        runs = [_trained(field, settings.cache_bytes) for _ in range(settings.repeats)]
        decode = median(_cold_seconds(field, settings.cache_bytes) for _ in range(settings.repeats))
    finally:
        torch.set_num_threads(before)
    waiting, whole, step = (median(values) for values in zip(*runs, strict=True))
    step *= 1000
    decode *= 1000
    applies = step > decode and default_threads() > 1
    words = f"a step of the model takes {step:.0f} ms, decoding its batch {decode:.0f} ms"
    note = "" if applies else "; a loop waits less where the model takes longer than decoding, on more than one core"
    figure = Figure("waiting for data in a training, cold, demo model", waiting, detail=words + note)
    detail = {
        "with_first_batch": whole,
        "model_ms": step,
        "decode_ms": decode,
        "batch_size": _WAITING_BATCH,
        "model_threads": threads,
        "decode_threads": 1,
    }
    return Waiting(figure, detail)


def _loader(field: Field, cache_bytes: float | str) -> CutoutLoader:
    cache = TileCache(cache_bytes)
    return CutoutLoader(CutoutDataset(field.plan, rows=field.rows, batch_size=_WAITING_BATCH, threads=1, cache=cache))


def _cold_seconds(field: Field, cache_bytes: float | str) -> float:
    """Return seconds a batch of a pass that only reads."""
    loader = _loader(field, cache_bytes)
    start = time.perf_counter()
    consume(loader)
    return (time.perf_counter() - start) / len(loader)


def _trained(field: Field, cache_bytes: float | str) -> tuple[float, float, float]:
    """Return the share of waiting without and with the first batch, and seconds of the model's part of a step."""
    network = LensFinder(len(field.plan.bands))
    optimiser = torch.optim.AdamW(network.parameters())
    waits, steps = list[float](), list[float]()
    batches = iter(_loader(field, cache_bytes))
    mark = time.perf_counter()
    for batch in batches:
        arrived = time.perf_counter()
        _step(network, optimiser, torch.asarray(batch["image"]))
        waits.append(arrived - mark)
        mark = time.perf_counter()
        steps.append(mark - arrived)
    waits.append(time.perf_counter() - mark)  # for the end
    return _share(waits[1:], steps[1:]), _share(waits, steps), median(steps)


def _step(network: torch.nn.Module, optimiser: torch.optim.Optimizer, image: torch.Tensor) -> None:
    """Take one training step towards made-up labels; the pixels are stretched as in the demo."""
    logits = network(torch.asinh(image / 10.0))
    label = torch.arange(len(image)) % 2
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label.float())
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _share(waits: Sequence[float], steps: Sequence[float]) -> float:
    total = sum(waits) + sum(steps)
    return sum(waits) / total if total else 0.0
