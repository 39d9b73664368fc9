"""Cutouts a second of every way in every regime of a scene, and where the time goes."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import PixelMismatchError
from ...fits.stages import STAGES, StageClock
from ...read.cache.tile_cache import TileCache
from .ceilings import BareCopyWay, BareDecodeWay, Ceilings, InMemoryWay
from .entries import Entry, Profile
from .fields import Field
from .ours import LoaderWay, ReaderWay
from .peers import peers_of
from .settings import Regime, Settings, regimes_of
from .timing import Way, interleaved

__all__ = ["Scenery", "check_pixels", "entry_of", "measure_scene", "profile_cost", "stages_of"]

_COST_RUNS = 5
"""Times the usual runs, of one pass each, for what the stage profile costs: three percent are less than a usual spread."""

_SAMPLE = 6
"""Targets whose pixels are compared: `butler.get` needs 0.6 s for them."""


class Scenery:
    """All ways to read one field, with what they share."""

    def __init__(self, field: Field, settings: Settings) -> None:
        self.field, self.settings = field, settings
        self.cache = TileCache(settings.cache_bytes)
        self.ceilings = Ceilings(field)
        self.regimes = regimes_of(settings, field.scene)
        self.peers, self.left_out = peers_of(field, settings.butler_targets, settings.peer_targets)

    def close(self) -> None:
        """Close what the other ways hold open."""
        for peer in self.peers:
            peer.close()

    def loader(self, regime: Regime, clock: StageClock | None = None) -> LoaderWay:
        """Return the way through the loader."""
        chosen = self.settings
        return LoaderWay(
            self.field,
            regime,
            self.cache,
            batch_size=chosen.batch_size,
            cache_bytes=chosen.cache_bytes,
            seed=chosen.seed,
            clock=clock,
        )

    def ways(self) -> list[tuple[Way, Regime]]:
        """Return every way with the regime that it stands for, ceilings and peers included."""
        field, size = self.field, self.settings.batch_size
        found: list[tuple[Way, Regime]] = [(peer, Regime("", "", 1, 0)) for peer in self.peers]
        cores = sorted({1, *(regime.cores for regime in self.regimes)})
        caches = {regime.cache for regime in self.regimes}
        found += [(BareDecodeWay(self.ceilings, n), Regime("", "", n, 0)) for n in cores]
        if "warm" in caches:
            found += [(BareCopyWay(self.ceilings, n, size), Regime("", "", n, 0)) for n in cores]
            for order, workers in dict.fromkeys((r.order, r.workers) for r in self.regimes):
                memory = InMemoryWay(self.ceilings, shuffle=order == "shuffled", workers=workers, batch_size=size)
                found.append((memory, Regime("", order, 1, workers)))
        for cache, order in dict.fromkeys((r.cache, r.order) for r in self.regimes):
            regime = Regime(cache, order, 1, 0)
            budget = self.settings.cache_bytes
            found.append((ReaderWay(field, regime, self.cache, batch_size=size, cache_bytes=budget), regime))
        return found + [(self.loader(regime), regime) for regime in self.regimes]


def measure_scene(
    scenery: Scenery, after: Callable[[Way], object] = lambda _: None
) -> tuple[list[Entry], list[Profile]]:
    """Measure a field in every way, run by run, after making sure that all ways give the same pixels.

    Raises
    ------
    PixelMismatchError
        Two ways give different pixels.
    """
    scenery.field.touch()
    settings = scenery.settings
    with _closing(scenery.ways()) as ways:
        check_pixels([way for way, _ in ways], scenery.field)
        gc.collect()  # so that it is nobody's run in which this falls due
        rates = interleaved([way for way, _ in ways], settings.repeats, settings.least_seconds, after)
        entries = [entry_of(scenery.field, way, regime, each) for (way, regime), each in zip(ways, rates, strict=True)]
    in_process = [e for e in entries if e.way == "loader" and e.workers == 0]
    return entries, [_profiled(scenery, entry) for entry in in_process]


@contextmanager
def _closing(ways: list[tuple[Way, Regime]]) -> Iterator[list[tuple[Way, Regime]]]:
    with ExitStack() as stack:
        for way, _ in ways:
            stack.callback(way.close)
        yield ways


def check_pixels(ways: Sequence[Way], field: Field) -> None:
    """Compare what each way reads of a few targets; the first way is the reference.

    Raises
    ------
    PixelMismatchError
        A way gives other pixels.
    """
    rows = field.rows[np.linspace(0, len(field.rows) - 1, min(_SAMPLE, len(field.rows))).astype(np.int64)]
    first = ways[0].pixels(rows)
    seen = set[tuple[type, str]]()
    for way in ways[1:]:
        # Starting processes takes seconds: once is enough.
        regime = getattr(way, "regime", None)
        kind = type(way), f"{regime.workers} worker processes" if regime and regime.workers else str(regime)
        if kind in seen:
            continue
        seen.add(kind)
        _compare(ways[0].name, first, way.name, way.pixels(rows), field)


def _compare(
    one: str, pixels: Mapping[str, NDArray[Any]], other: str, found: Mapping[str, NDArray[Any]], field: Field
) -> None:
    for plane in field.scene.names:
        if not np.array_equal(pixels[plane], found[plane], equal_nan=plane != "mask"):
            different = np.asarray(pixels[plane] != found[plane])
            raise PixelMismatchError(
                f"{other!r} and {one!r} give other pixels of {field.scene}: {int(different.sum())} of {different.size} in "
                f"the {plane} plane; their speeds cannot be compared"
            )


def entry_of(field: Field, way: Way, regime: Regime, rates: tuple[float, ...]) -> Entry:
    """Return the entry of a way."""
    scene = field.scene
    rows = getattr(way, "rows", field.rows)
    return Entry(
        way.name,
        scene.release,
        scene.density,
        scene.size,
        scene.planes,
        regime.cache,
        regime.order,
        regime.threads,
        regime.workers,
        len(rows),
        rates,
    )


def stages_of(seconds: Mapping[str, float], wall: float, threads: int, cutouts: int) -> dict[str, float]:
    """Return seconds a cutout by stage, which add up to the time that passed.

    Parameters
    ----------
    seconds
        Of a `StageClock`: threads side by side add up.
    wall
        Time that passed.
    threads
        How many worked side by side.
    cutouts
        How many were read.
    """
    spread = {stage: seconds.get(stage, 0.0) / threads for stage in STAGES}
    spread["plan"] = 0.0
    spread["hand-over"] = max(0.0, wall - sum(spread.values()))
    return {stage: value / cutouts for stage, value in spread.items()}


def _profiled(scenery: Scenery, entry: Entry) -> Profile:
    clock = StageClock()
    way = scenery.loader(Regime(entry.cache, entry.order, entry.threads, entry.workers), clock)
    wall, cutouts = 0.0, 0
    run = way.prepare()
    while wall < scenery.settings.least_seconds or not cutouts:
        before, start = way.latest.stats(), time.perf_counter()
        if not cutouts:
            clock.reset()
        cutouts += run()
        wall += time.perf_counter() - start
        stats = way.latest.stats() - before
        run = way.prepare()
    way.close()
    seconds = stages_of(clock.seconds(), wall, entry.threads, cutouts)
    distinct = scenery.ceilings.units
    return Profile(entry, seconds, scenery.field.seconds, stats.misses, distinct, stats.evictions)


def profile_cost(scenery: Scenery) -> dict[str, float]:
    """Return the share of its speed that a pass in one thread loses to the clock of stages, by cache.

    Passes with and without the clock take turns. Cold passes are left out: they wait for memory more or less long, which
    has nothing to do with the clock.
    """
    settings = scenery.settings
    costs = {}
    for cache in dict.fromkeys(regime.cache for regime in scenery.regimes if regime.cache != "cold"):
        regime = Regime(cache, settings.order[0], 1, 0)
        ways = [scenery.loader(regime), scenery.loader(regime, StageClock())]
        plain, timed = interleaved(ways, _COST_RUNS * settings.repeats, 0.0)
        for way in ways:
            way.close()
        costs[cache] = 1.0 - float(np.median(np.array(timed) / np.array(plain)))
    return costs
