"""The caches of worker processes: their figures and their budgets."""

import pytest

from lsstcutouts.loader.datamodule.module import CutoutDataModule
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.loader.workers import WorkerCaches, WorkerReport
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.batch_report import BatchReport
from lsstcutouts.read.cache.stats import CacheStats
from lsstcutouts.testing import SimulatedRepository


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=32)


def reported(process: int, stats: CacheStats) -> WorkerReport:
    return WorkerReport(BatchReport(None, None, None), stats, process)  # nobody looks at it


def test_figures_of_ended_processes_stay() -> None:
    caches = WorkerCaches()
    caches.add(reported(1, CacheStats(hits=1, bytes=10)))
    caches.add(reported(1, CacheStats(hits=5, bytes=20)))
    caches.add(reported(2, CacheStats(hits=2, bytes=30)))
    assert caches.total() == CacheStats(hits=7, bytes=50)
    caches.retire()
    assert caches.total() == CacheStats(hits=7)
    caches.add(reported(3, CacheStats(hits=1, bytes=4)))
    assert caches.total() == CacheStats(hits=8, bytes=4)


def test_a_loader_knows_what_its_worker_processes_did(plan: CutoutPlan) -> None:
    dataset = CutoutDataset(plan, batch_size=9, cache_bytes="100 MB", threads=1)
    dataset.concurrent_loaders = 2
    loader = CutoutLoader(dataset, num_workers=2)
    assert loader.cache_info() == CacheStats()
    for batch in loader:
        assert set(batch) >= {"image", "object_id"}
        assert not any(key.startswith("lsstcutouts") for key in batch)
    first = loader.cache_info()
    assert first.misses > 0
    assert first.bytes > 0
    assert first.entries > 0
    assert first.max_bytes == 50_000_000  # each of two workers a quarter, the other half for another loader's
    list(loader)
    second = loader.cache_info() - first
    # The order differs, and so does what each worker reads.
    assert second.hits + second.misses > 0
    assert second.max_bytes == 50_000_000
    assert dataset.cache.stats().misses == 0


def test_a_batch_that_was_sent_is_reserved_until_the_loop_takes_it(plan: CutoutPlan) -> None:
    dataset = CutoutDataset(plan, batch_size=9, cache_bytes="100 MB", threads=1)
    loader = CutoutLoader(dataset, num_workers=1, prefetch_factor=3)
    batches = iter(loader)
    sizes = []
    for _ in range(len(loader)):
        sizes.append(next(batches)["image"].nbytes)
        reserved = loader.cache_info().reserved
        assert reserved >= sum(sizes[-3:])


def test_a_data_module_sums_its_loaders_and_counts_its_own_cache_once(dp2_repo: SimulatedRepository) -> None:
    data = CutoutDataModule(
        dp2_repo.root,
        "dp2",
        dp2_repo.truth,
        "gri",
        32,
        batch_size=16,
        cache_bytes="100 MB",
        num_workers=1,
        threads=1,
        splits={"train": 0.5, "val": 0.5},
    )
    data.setup()
    train, val = data.train_dataloader(), data.val_dataloader()
    assert isinstance(val, CutoutLoader)
    list(train)
    alone = data.cache_info()
    assert alone == train.cache_info()
    assert alone.max_bytes == 50_000_000
    list(val)
    both = data.cache_info()
    assert both == train.cache_info() + val.cache_info()
    assert both.max_bytes == 100_000_000
    misses = both.misses
    assert data.val_dataloader() is not data.loaders["val"] is val  # it has the caches
    assert data.cache_info().misses == misses
    del val
    list(data.val_dataloader())  # another one in its place
    assert data.cache_info().misses > misses
    assert data.cache_info().max_bytes == 100_000_000
