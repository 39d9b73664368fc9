"""What each width of the block shuffle costs, and how near it comes to a full permutation.

Run: python -m benchmarks.shuffle [widths=[1,32]] [wide_patches=6] [output=shuffle.png]
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsstcutouts.app.benchmark.machine import about_machine
from lsstcutouts.app.benchmark.ways import consume
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.order.sampling import Sampling, Shuffle
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.source.writing import atomic_file
from lsstcutouts.testing.config import SimulationConfig
from lsstcutouts.testing.simulation import SimulatedRepository, simulate

from .common import report, settings_of
from .shuffle_quality import batch_correlation, nearest, neighbour_distance

__all__ = ["ShuffleEntry", "ShuffleSettings", "main", "measure_shuffles", "wide_repository", "write_shuffle_picture"]

_EPOCHS = 10
"""Orders that the quality is the mean of."""

_BANDS = "gr"


@dataclass(frozen=True)
class ShuffleSettings:
    """What is compared; ``wide`` is a simulated repository to use, else one is written into ``root``."""

    root: str = "bench"
    wide: str | None = None
    wide_patches: int = 6
    wide_targets: int = 200
    wide_cache: float = 0.25
    widths: Sequence[int] = (1, 4, 8, 16, 32, 64, 128)
    size: int = 64
    batch_size: int = 128
    repeats: int = 1
    seed: int = 0
    output: str = "outputs/benchmark/shuffle.png"


@dataclass(frozen=True)
class ShuffleEntry:
    """One way to shuffle.

    Attributes
    ----------
    name
        ``"none"``, a width, or ``"full"``.
    distance
        Of neighbours on the sky in the order; 1 for a full permutation.
    correlation
        Of the labels in a batch, for a label that follows the patch of the sky; 0 for a full permutation.
    decodes
        Tiles decoded in an epoch for each distinct one.
    rates
        Cutouts a second of each run.
    """

    name: str
    distance: float
    correlation: float
    decodes: float
    rates: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Median of the runs."""
        return median(self.rates)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def wide_repository(settings: ShuffleSettings, *, progress: bool = True) -> SimulatedRepository:
    """Return a repository of many small patches; the benchmark's own is written on first use, a second a patch and band."""
    if settings.wide is not None:
        return SimulatedRepository.load(settings.wide)
    patches = settings.wide_patches
    root = Path(settings.root) / f"dp2-wide-{patches}x{patches}-{settings.wide_targets}"
    if not root.exists():
        targets = settings.wide_targets * patches**2
        config = SimulationConfig(cells=10, patches=patches, bands=_BANDS, targets=targets, missing=None, holes=False)
        simulate(root, config, progress=progress)
    return SimulatedRepository.load(root)


def measure_shuffles(repository: SimulatedRepository, settings: ShuffleSettings) -> list[ShuffleEntry]:
    """Return quality and cost of every width, between the order over the sky and a full permutation; they take turns."""
    plan = build_plan(
        repository.root,
        repository.truth,
        collections=repository.collections,
        dataset_type=repository.dataset_type,
        bands=repository.bands,
        size=settings.size,
    )
    ways: list[tuple[str, Shuffle, int]] = [("none", False, 1)]
    ways += [(str(width), "block", width) for width in settings.widths]
    ways.append(("full", "full", 1))
    whole = TileCache("auto")
    consume(_loader(plan, settings, False, 1, whole))
    distinct, budget = whole.stats().misses, int(whole.stats().bytes * settings.wide_cache)
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in ways}
    for _ in range(settings.repeats):
        for name, shuffle, width in ways:
            runs[name].append(_pass(plan, settings, shuffle, width, budget))
    quality = _quality(plan, settings)
    return [
        ShuffleEntry(
            name,
            *quality(shuffle, width),
            median(misses for misses, _ in runs[name]) / distinct,
            tuple(rate for _, rate in runs[name]),
        )
        for name, shuffle, width in ways
    ]


def _loader(
    plan: CutoutPlan, settings: ShuffleSettings, shuffle: Shuffle, width: int, cache: TileCache
) -> CutoutLoader:
    dataset = CutoutDataset(
        plan,
        batch_size=settings.batch_size,
        sampling=Sampling(shuffle=shuffle, shuffle_width=width),
        seed=settings.seed,
        cache=cache,
    )
    return CutoutLoader(dataset)


def _pass(
    plan: CutoutPlan, settings: ShuffleSettings, shuffle: Shuffle, width: int, budget: int
) -> tuple[float, float]:
    """Return tiles decoded and cutouts a second in the second epoch: the first finds an empty cache."""
    cache = TileCache(budget)
    loader = _loader(plan, settings, shuffle, width, cache)
    consume(loader)
    before, start = cache.stats().misses, perf_counter()
    count = consume(loader)
    return cache.stats().misses - before, count / (perf_counter() - start)


def _quality(plan: CutoutPlan, settings: ShuffleSettings) -> Callable[[Shuffle, int], tuple[float, float]]:
    """Return what says how good a shuffle is: distance of neighbours, and correlation of labels."""
    neighbour, label = nearest(plan.yx0, plan.primary), _label(plan)

    def quality(shuffle: Shuffle, width: int) -> tuple[float, float]:
        dataset = CutoutDataset(
            plan,
            batch_size=settings.batch_size,
            sampling=Sampling(shuffle=shuffle, shuffle_width=width),
            seed=settings.seed,
            cache=TileCache("1 MB"),
        )
        orders = [dataset.order(epoch) for epoch in range(_EPOCHS if shuffle else 1)]
        return (
            mean(neighbour_distance(order, neighbour) for order in orders),
            mean(batch_correlation(order, label, settings.batch_size) for order in orders),
        )

    return quality


def _label(plan: CutoutPlan) -> NDArray[np.bool_]:
    """Return a label that follows the sky, as depth or seeing do: its rate is between 0.1 and 0.9, drawn for each patch."""
    rng = np.random.default_rng(0)
    rate = rng.uniform(0.1, 0.9, len(plan.patches))
    return np.asarray(rng.random(len(plan)) < rate[plan.primary])


def write_shuffle_picture(path: Path, entries: Sequence[ShuffleEntry], subtitle: str, cache: float) -> Path:
    """Write a PNG: quality and cost by width."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.0, 3.4), layout="constrained")
        panels = figure.subplots(1, 3)
        place = np.arange(len(entries))
        full = next(entry for entry in entries if entry.name == "full")
        rows = (
            ("distance of neighbours in the order\n(full permutation: 1)", [e.distance for e in entries], 1.0),
            ("correlation of labels in a batch\n(full permutation: 0)", [e.correlation for e in entries], 0.0),
            (f"thousand cutouts/s\n(the cache holds {cache:.0%} of the tiles)", [e.rate / 1000 for e in entries], None),
        )
        for axes, (title, values, ideal) in zip(panels, rows, strict=True):
            if ideal is not None:
                axes.axhline(ideal, color="#c1121f", linewidth=1, linestyle="--")
            axes.plot(place, values, "o-", color="#1f6fb4", markersize=4)
            axes.set_title(title, fontsize=9, loc="left")
            axes.set_xticks(place, [e.name for e in entries], rotation=45)
            axes.set_xlabel("shuffle width (blocks)")
            axes.margins(y=0.12)
        low, high = zip(*((min(e.rates) / 1000, max(e.rates) / 1000) for e in entries), strict=True)
        panels[2].fill_between(place, low, high, color="#1f6fb4", alpha=0.2, linewidth=0)
        panels[2].axhline(full.rate / 1000, color="#c1121f", linewidth=1, linestyle="--")
        panels[2].set_ylim(bottom=0)
        figure.suptitle(subtitle, fontsize=9, x=0.01, ha="left")
        with atomic_file(path) as part:
            figure.savefig(part, dpi=150, format="png")
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the figures and write the picture."""
    names = ShuffleSettings.__dataclass_fields__
    _, own = settings_of(__doc__, {name: field.default for name, field in names.items()}, arguments)
    load = own.pop("load")
    settings = ShuffleSettings(**own)
    entries = measure_shuffles(wide_repository(settings, progress=True), settings)
    machine = about_machine()
    subtitle = f"{machine['cpu']}, {machine['usable_cores']} cores; {machine['date']}"
    write_shuffle_picture(Path(settings.output), entries, subtitle, settings.wide_cache)
    report([entry.as_dict() for entry in entries], load=load)


if __name__ == "__main__":
    main()
