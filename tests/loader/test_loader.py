"""Order, position, threads, processes and memory of the loader."""

import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lsstcutouts import Sampling
from lsstcutouts.errors import ConfigurationError, MissingFileError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.order.sampling import DEFAULT_SHUFFLE_WIDTH
from lsstcutouts.order.world import World
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.oracle import expected
from ..support.repositories import simulated_once


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=32, columns=("label", "kind"))


def dataset_of(plan: CutoutPlan, **changes) -> CutoutDataset:
    return CutoutDataset(plan, **{"batch_size": 9, "cache_bytes": "100 MB", "threads": 2, "seed": 5, **changes})


HANDLES = Path("/proc/self/fd")


def ids(batches) -> list[int]:
    return torch.cat([b["object_id"] for b in batches]).tolist()


def test_batches_are_tensors_that_equal_the_oracle(plan: CutoutPlan, dp2_repo: SimulatedRepository) -> None:
    number = {object_id: i for i, object_id in enumerate(plan.object_id.tolist())}
    for batch in CutoutLoader(dataset_of(plan, planes=("image", "valid"))):
        assert batch["image"].dtype == torch.float32
        assert batch["image"].shape[1:] == (3, 32, 32)
        assert isinstance(batch["kind"], list)
        for i, object_id in enumerate(batch["object_id"].tolist()):
            want = expected(dp2_repo, plan, number[object_id])
            np.testing.assert_array_equal(batch["image"][i].numpy(), want.image)
            np.testing.assert_array_equal(batch["valid"][i].numpy(), want.valid)
            assert batch["label"][i] == plan.columns["label"][number[object_id]]


def test_each_pass_is_the_next_epoch(plan: CutoutPlan) -> None:
    loader = CutoutLoader(dataset_of(plan))
    passes = [ids(loader) for _ in range(3)]
    assert all(sorted(p) == sorted(plan.object_id.tolist()) for p in passes)
    assert len({tuple(p) for p in passes}) == 3
    assert loader.position == (2, len(loader))
    assert loader.waited > 0
    loader.set_epoch(1)
    assert ids(loader) == passes[1]
    assert ids(loader) == passes[2]


def test_an_unconsumed_pass_does_not_count(plan: CutoutPlan) -> None:
    loader = CutoutLoader(dataset_of(plan))
    iter(loader)
    unconsumed = iter(loader)
    first = next(unconsumed)["object_id"]
    assert loader.position == (0, 1)
    del unconsumed
    loader.set_epoch(0)
    assert torch.equal(next(iter(loader))["object_id"], first)


def test_without_shuffling_every_epoch_goes_over_the_sky(plan: CutoutPlan) -> None:
    loader = CutoutLoader(dataset_of(plan, sampling=Sampling(shuffle=False)))
    first, second = ids(loader), ids(loader)
    assert first == second
    blocks = dict(zip(plan.object_id.tolist(), plan.blocks().tolist(), strict=True))
    visited = [blocks[i] for i in first]
    assert visited == sorted(visited)


def test_a_kept_batch_does_not_change(plan: CutoutPlan) -> None:
    kept, copies = [], []
    for batch in CutoutLoader(dataset_of(plan)):
        kept.append(batch)
        copies.append(batch["image"].clone())
    assert all(torch.equal(b["image"], c) for b, c in zip(kept, copies, strict=True))
    assert len({b["image"].data_ptr() for b in kept}) == len(kept)


def test_the_second_epoch_decodes_nothing(plan: CutoutPlan) -> None:
    loader = CutoutLoader(dataset_of(plan))
    ids(loader)
    first = loader.cache_info()
    assert first.misses == first.entries > 0
    ids(loader)
    assert (loader.cache_info() - first).misses == 0


def test_datasets_can_share_a_cache(plan: CutoutPlan) -> None:
    cache = TileCache("100 MB")
    ids(CutoutLoader(dataset_of(plan, cache=cache)))
    misses = cache.stats().misses
    ids(CutoutLoader(dataset_of(plan, cache=cache, sampling=Sampling(shuffle=False))))
    assert cache.stats().misses == misses


def open_files() -> set[str]:
    return {str(target) for link in HANDLES.iterdir() if (target := link.resolve()).suffix == ".fits"}


def settled(check) -> bool:
    """Wait a few seconds for something that other threads do."""
    for _ in range(100):
        gc.collect()
        if check():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not HANDLES.is_dir(), reason="counts open files through /proc")
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_an_abandoned_iterator_leaves_nothing(plan: CutoutPlan, taken: int) -> None:
    loader = CutoutLoader(dataset_of(plan))
    passing = iter(loader)
    for _ in range(taken):
        next(passing)
    if taken:
        assert open_files()
        assert [t for t in threading.enumerate() if t.name.startswith("lsstcutouts")]
    del passing
    assert settled(lambda: not open_files())
    assert settled(lambda: not [t for t in threading.enumerate() if t.name.startswith("lsstcutouts")])


def test_an_error_in_a_thread_reaches_the_loop(plan: CutoutPlan, tmp_path) -> None:
    uris = tuple(str(tmp_path / "gone.fits") if i == 4 else uri for i, uri in enumerate(plan.files.uri))
    files = type(plan.files)(uris, plan.files.size, plan.files.dataset_id)
    broken = CutoutPlan(**{**plan.__dict__, "files": files})
    with pytest.raises(MissingFileError, match=r"gone\.fits"):
        ids(CutoutLoader(dataset_of(broken)))
    with pytest.raises(MissingFileError, match=r"gone\.fits"):
        ids(CutoutLoader(dataset_of(broken), num_workers=2))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_give_each_target_once(plan: CutoutPlan, world: int) -> None:
    loaders = [CutoutLoader(dataset_of(plan, world=World(rank, world))) for rank in range(world)]
    passes = [list(loader) for loader in loaders]
    assert len({len(p) for p in passes}) == 1
    assert sorted(ids(batch for one in passes for batch in one)) == sorted(plan.object_id.tolist())


def test_positions_and_arguments_that_cannot_be(plan: CutoutPlan) -> None:
    loader = CutoutLoader(dataset_of(plan))
    with pytest.raises(ConfigurationError, match="batch 1000 of epoch 0, but an epoch has"):
        loader.load_state_dict({"epoch": 0, "batch": 1000})
    with pytest.raises(ConfigurationError, match="batch_size"):
        dataset_of(plan, batch_size=0)
    with pytest.raises(ConfigurationError, match="threads"):
        dataset_of(plan, threads=0)
    with pytest.raises(ConfigurationError, match="shuffle_width"):
        dataset_of(plan, sampling=Sampling(shuffle_width=0))


@pytest.fixture(scope="module")
def wide_repo() -> SimulatedRepository:
    """A repository of many small tiles, wide enough that a cache of part of it matters."""
    config = SimulationConfig(cells=10, patches=2, bands="g", targets=2500, missing=(), seed=3)
    return simulated_once(config)


@pytest.mark.parametrize(("width", "part"), [(DEFAULT_SHUFFLE_WIDTH, 1.0), (2, 0.4)])
def test_few_tiles_are_decoded_twice(wide_repo: SimulatedRepository, width: int, part: float) -> None:
    """At the default width with a cache that holds the open blocks, and with a small cache at a small width."""
    plan = build_plan(wide_repo.root, wide_repo.truth, collections="dp2", bands="g", size=64)
    everything = CutoutLoader(CutoutDataset(plan, cache_bytes="1 GB", batch_size=64))
    ids(everything)
    distinct = everything.cache_info()
    assert distinct.entries > 400
    budget = int(part * distinct.bytes)
    loader = CutoutLoader(
        CutoutDataset(plan, cache_bytes=budget, batch_size=64, sampling=Sampling(shuffle_width=width))
    )
    ids(loader)
    assert loader.cache_info().misses <= 1.3 * distinct.entries


def test_rows_are_numbers_or_a_mask(plan: CutoutPlan) -> None:
    mask = plan.columns["label"] == 1
    assert sorted(ids(CutoutLoader(dataset_of(plan, rows=mask)))) == sorted(plan.object_id[mask].tolist())
    for bad in ([-1], [len(plan)], [0.5], mask[:-1]):
        with pytest.raises(ConfigurationError, match="rows must be integers"):
            dataset_of(plan, rows=bad)


def test_only_the_latest_pass_counts(plan: CutoutPlan) -> None:
    loader = CutoutLoader(dataset_of(plan))
    early = iter(loader)
    next(early)
    late = iter(loader)
    next(late)
    next(early)
    assert loader.position == (1, 1)
