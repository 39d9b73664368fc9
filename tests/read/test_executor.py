"""Batches in portions, within a small budget and side by side: the same pixels, and memory for few tiles."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lsstcutouts import build_plan
from lsstcutouts.fits import kernels
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.read.batch_report import BatchReport
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader, Request, stream
from lsstcutouts.read.tiles import PlaneTiles
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.repositories import simulated_once

PLANES = ReaderOptions(planes=("image", "variance", "valid", "psf", "mask"), mask_planes=("SAT",))


@pytest.fixture(scope="module")
def plan() -> CutoutPlan:
    config = SimulationConfig(cells=3, cell=(120, 130), grid=4, patches=2, bands="gri", targets=90, missing=((5, "g"),))
    repo = simulated_once(config)
    return build_plan(repo.root, repo.truth, collections="dp2", bands="gri", size=(41, 50))


@pytest.fixture(scope="module")
def whole(plan: CutoutPlan) -> dict[str, np.ndarray]:
    return dict(CutoutReader(plan, PLANES, cache=TileCache("500 MB")).read(np.arange(len(plan))))


def same(batch, whole, rows) -> None:
    for name in (*PLANES.planes, "band_present", "quality", "wcs", "psf_present", "yx0"):
        np.testing.assert_array_equal(batch[name], whole[name][rows], err_msg=name)


@pytest.mark.parametrize("portion", [1, 5, 1000])
def test_portions_of_any_size_are_the_same_batch(
    plan: CutoutPlan, whole: dict[str, np.ndarray], portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = 4 * (41 + 120) * (50 + 130) * 3 * 3
    monkeypatch.setattr("lsstcutouts.read.executor._LEAST_BYTES", portion * target)
    reader = CutoutReader(plan, PLANES, cache=TileCache(0))
    rows = np.random.default_rng(0).permutation(len(plan))
    same(reader.read(rows), whole, rows)
    assert reader.cache.stats().bytes == 0


def test_tiles_of_a_large_batch_are_a_part_of_the_budget(plan: CutoutPlan, whole: dict[str, np.ndarray]) -> None:
    """The batch needs several times what is there at any moment."""
    cache = TileCache("1 MB")
    reader, most = CutoutReader(plan, PLANES, cache=cache), [0]
    claim = cache.claim

    def watched(wanted):
        made = claim(wanted)
        most[0] = max(most[0], cache._state().bytes)
        return made

    cache.claim = watched
    rows = np.arange(len(plan))
    same(reader.read(rows), whole, rows)
    stats = cache.stats()
    assert stats.bytes <= 1_000_000
    assert most[0] < 20_000_000 < stats.misses * 4 * 120 * 130


def test_readers_of_one_cache_side_by_side(plan: CutoutPlan, whole: dict[str, np.ndarray]) -> None:
    """Some with threads of their own, some in the calling thread, all at the same tiles in a cache that is too small."""
    cache, start = TileCache("6 MB"), threading.Barrier(5)

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        reader = CutoutReader(plan, PLANES, cache=cache)
        parts = [rng.permutation(len(plan))[: int(rng.integers(1, 40))] for _ in range(12)]
        start.wait()
        if seed % 2:
            batches = (reader.read(part) for part in parts)
        else:
            batches = stream(reader, map(Request, parts), threads=2, ahead=2, then=lambda delivery: delivery.batch)
        for part, batch in zip(parts, batches, strict=True):
            same(batch, whole, part)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(read, range(5)))
    assert not any(pool.pins.any() for pool in cache._state().pools.values() if cache.stats())


def test_an_abandoned_pass_lets_go_of_its_tiles(plan: CutoutPlan) -> None:
    cache = TileCache("50 MB")
    reader = CutoutReader(plan, PLANES, cache=cache)
    parts = np.array_split(np.arange(len(plan)), 9)
    for taken in range(4):
        batches = stream(reader, map(Request, parts), threads=3, ahead=3, then=lambda delivery: delivery.batch_report)
        for _ in range(taken):
            assert isinstance(next(batches), BatchReport)
        del batches
        cache.clear()
    report = reader.deliver(np.arange(len(plan))).batch_report  # waits for nothing that nobody makes
    assert not report.failures
    deadline = time.monotonic() + 20  # some jobs were under way
    while any(pool.pins.any() for pool in cache._state().pools.values() if cache.stats()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_fewer_files_are_opened_than_there_are(plan: CutoutPlan, dp2_repo: SimulatedRepository) -> None:
    """Of neighbours only those that give a pixel."""
    inside = build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="g", size=4)
    opened: list[int] = []
    reader = CutoutReader(inside)
    index = reader._files.index
    reader._files.index = lambda plan, file, *rest: opened.append(file) or index(plan, file, *rest)
    reader.read(np.array([0]))
    assert len(opened) <= 1


def test_no_python_runs_for_each_tile(plan: CutoutPlan) -> None:
    """Four times the tiles in one file: as many calls of Python and C functions, and so no object for each tile."""
    if not kernels.FUSED:
        pytest.skip("numba is not installed")
    reader = CutoutReader(plan, cache=TileCache("100 MB"))
    reader.read(np.arange(len(plan)))
    decoder, file = reader._executor._tiles, 0
    index = decoder.known([file]).get(file)
    layout = index.layout("image")
    in_rice = np.arange(layout.units) if layout.kinds is None else np.flatnonzero(layout.kinds == 0)

    def calls(count: int) -> int:
        tiles = in_rice[:count]
        side = np.full(count, 120)
        one = PlaneTiles(file, "image", index, tiles, side, side, np.full(count, 130), count)
        reader.cache.clear()
        claim = reader.cache.claim(decoder.wanted([one]))
        events = [0]

        def profile(frame: object, event: str, argument: object) -> None:
            events[0] += event in {"call", "c_call"}

        sys.setprofile(profile)
        try:
            assert decoder.decode([one], claim, [(0, claim.missing[0])]) == []
        finally:
            sys.setprofile(None)
        claim.finish()
        claim.end()
        return events[0]

    assert len(in_rice) >= 8
    calls(8)
    assert calls(2) == calls(8) < 300
