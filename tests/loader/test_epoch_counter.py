"""The dataset in torch's own DataLoader: each pass is the next epoch, and what cannot be served is refused."""

import copy
import gc
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.loader import epoch_counter
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.epoch_counter import EpochCounter
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
PUBLIC = {
    "image", "band_present", "quality", "object_id", "ra", "dec", "tract", "patch", "yx0", "offset", "wcs", "is_padding",
    "label",
}  # fmt: skip


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="g", size=16, columns=("label",))


def dataset_of(plan: CutoutPlan, **changes: Any) -> CutoutDataset:
    return CutoutDataset(plan, **{"batch_size": 9, "cache_bytes": "50 MB", "threads": 1, **changes})


def loader_of(dataset: CutoutDataset, workers: int = 0, **settings: Any) -> DataLoader[Any]:
    if workers:
        settings.setdefault("multiprocessing_context", "fork")
    return DataLoader(dataset, batch_size=None, num_workers=workers, **settings)


@contextmanager
def refused(words: str) -> Iterator[None]:
    """Expect an error, and let go of torch's frames: the garbage collector would wait 5 s for each worker process."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        yield
    caught.value.with_traceback(None)
    del caught


def ids(batches: Any) -> list[list[int]]:
    return [batch["object_id"].tolist() for batch in batches]


@pytest.fixture(scope="module")
def epochs(plan: CutoutPlan) -> list[list[list[int]]]:
    loader = CutoutLoader(dataset_of(plan))
    return [ids(loader) for _ in range(8)]


@pytest.mark.parametrize(
    ("workers", "settings"),
    [
        (0, {}),
        (2, {}),
        (2, {"persistent_workers": True}),
        (3, {"prefetch_factor": 1}),
        (2, {"multiprocessing_context": "forkserver", "persistent_workers": True}),
        pytest.param(2, {"multiprocessing_context": "forkserver"}, marks=pytest.mark.slow),
        pytest.param(2, {"multiprocessing_context": "spawn", "persistent_workers": True}, marks=pytest.mark.slow),
        pytest.param(2, {"multiprocessing_context": "spawn"}, marks=pytest.mark.slow),
    ],
)
def test_each_pass_is_the_next_epoch(plan: CutoutPlan, epochs: Any, workers: int, settings: Any) -> None:
    dataset = dataset_of(plan)
    loader = loader_of(dataset, workers, **settings)
    batches = list(loader)
    assert {frozenset(batch) for batch in batches} == {frozenset(PUBLIC)}
    assert ids(batches) == epochs[0]
    assert ids(loader) == epochs[1]
    if settings == {"multiprocessing_context": "spawn"}:
        return  # each pass starts interpreters anew
    if "spawn" not in settings.values():
        next(iter(loader))  # a pass that was begun, and dropped before all workers are there
    else:
        ids(loader)
    assert ids(loader) == epochs[3]
    dataset.set_epoch(1)
    assert ids(loader) == epochs[1]
    assert ids(loader) == epochs[2]
    del loader
    assert ids(loader_of(dataset)) == epochs[3]
    assert ids(dataset) == epochs[4]  # a plain loop
    if workers:
        assert ids(loader_of(dataset, 1)) == epochs[5]
    with pytest.raises(ConfigurationError, match="epoch must be at least 0, got -1"):
        dataset.set_epoch(-1)


def test_a_reseeded_loop_goes_on_all_the_same(plan: CutoutPlan, epochs: Any) -> None:
    """The seed of the workers is the same in every pass then."""
    loader = loader_of(dataset_of(plan), 2)
    for epoch in range(3):
        torch.manual_seed(0)
        assert ids(loader) == epochs[epoch]


def test_an_unconsumed_pass_does_not_count(plan: CutoutPlan, epochs: Any) -> None:
    loader = loader_of(dataset_of(plan))
    iter(loader)
    early = iter(loader)
    assert next(early)["object_id"].tolist() == epochs[0][0]
    late = iter(loader)
    assert ids(late) == epochs[1]
    assert ids(early) == epochs[0][1:]
    assert [(a["object_id"].tolist(), b["object_id"].tolist()) for a, b in zip(loader, loader, strict=True)] == list(
        zip(epochs[2], epochs[2], strict=True)
    )


def test_our_loader_neither_counts_nor_listens(plan: CutoutPlan, epochs: Any) -> None:
    dataset = dataset_of(plan)
    dataset.set_epoch(5)
    loader = CutoutLoader(dataset)
    assert ids(loader) == epochs[0]
    assert ids(loader_of(dataset)) == epochs[5]
    assert ids(loader) == epochs[1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("context", ["fork", "forkserver"])
@pytest.mark.parametrize("settings", [{}, {"batch_size": 2}, {"batch_size": 2, "collate_fn": list}])
def test_a_batch_size_is_refused(plan: CutoutPlan, workers: int, context: str, settings: Any) -> None:
    if workers:
        settings = {**settings, "num_workers": 1, "multiprocessing_context": context}
    with refused(r"DataLoader\(\.\.\., batch_size=None\).*\(9\).*CutoutLoader"):
        next(iter(DataLoader(dataset_of(plan), **settings)))


def test_a_pass_that_is_garbage_refuses_nobody(plan: CutoutPlan) -> None:
    dataset = dataset_of(plan)
    gc.disable()
    try:
        loader = loader_of(dataset)
        passing = iter(loader)
        next(passing)
        box = [passing]
        box.append(box)
        del passing, box
        assert next(iter(loader_of(dataset)))
    finally:
        gc.enable()


def test_two_loaders_at_once_are_refused(plan: CutoutPlan, epochs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_of(plan)
    one, other = loader_of(dataset), loader_of(dataset)
    with refused(r"two torch DataLoaders.*copy\.copy\(dataset\)"):
        list(zip(one, other, strict=True))
    passing = iter(one)
    next(passing)
    for workers in (0, 1):
        with refused("two torch DataLoaders"):
            next(iter(loader_of(dataset, workers)))
    with refused("two torch DataLoaders"):
        next(iter(loader_of(dataset, 1, multiprocessing_context="forkserver")))
    mine = loader_of(copy.copy(dataset))  # as the message says
    assert ids(mine) == epochs[2]
    del passing
    assert ids(other) == epochs[2]
    # Worker processes of two passes; those that stay, too.
    monkeypatch.setattr(epoch_counter, "_PATIENCE", 0.5)
    kept = loader_of(dataset, 1, persistent_workers=True)
    assert ids(kept) == epochs[3]
    for workers in (0, 1):
        with refused(r"two torch DataLoaders.*worker process \d+ is running"):
            next(iter(loader_of(dataset, workers)))
    del kept
    assert ids(other) == epochs[4]
    with refused(r"two passes with worker processes"):
        list(zip(loader_of(dataset, 2), loader_of(dataset, 2), strict=True))


def test_an_iterator_that_is_replaced_may_end_late(plan: CutoutPlan, epochs: Any) -> None:
    loader = loader_of(dataset_of(plan), 2)
    passing = iter(loader)
    next(passing)
    passing = iter(loader)  # its workers start while those of the one before are there
    assert ids(passing) == epochs[1]


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies_count_their_own_passes(plan: CutoutPlan, epochs: Any, how: Any) -> None:
    dataset = dataset_of(plan)
    ids(loader_of(dataset))
    made = how(dataset)
    assert ids(loader_of(made)) == epochs[1]
    assert ids(loader_of(made, 1)) == epochs[2]
    assert ids(loader_of(dataset)) == epochs[1]
    assert (made.cache is dataset.cache) == (how is copy.copy)


def test_workers_of_a_pool_agree_in_whatever_order_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that are passes behind, after numbers that wrap, and where a later pool has fewer workers."""
    monkeypatch.setattr(epoch_counter, "_runs", lambda _: False)
    shared = EpochCounter(0, 1)

    def of_worker(pool: int) -> EpochCounter:
        mine = EpochCounter(0, 1)
        mine._table, mine._pool = shared._table, pool  # type: ignore[attr-defined]
        return mine

    def claims(table: EpochCounter, worker: int) -> int:
        monkeypatch.setattr(epoch_counter, "_pool_of", lambda _: table._pool)  # type: ignore[attr-defined]
        return table.claim(worker)

    early, late = of_worker(7), of_worker(7)
    assert [claims(early, 0) for _ in range(3)] == [0, 1, 2]
    assert [claims(late, 1) for _ in range(3)] == [0, 1, 2]
    early._claimed = late._claimed = epoch_counter._PASS - 1
    shared._table[0, :2] = 0
    assert [claims(early, 0), claims(early, 0), claims(late, 1), claims(late, 1)] == [0, 1, 0, 1]
    alone = of_worker(8)
    assert claims(alone, 0) == 2
    assert shared.upcoming() == 3
    shared.set_epoch(1)
    assert [claims(alone, 0), claims(alone, 0)] == [1, 2]
    assert int(shared._table[1, 0]) == os.getpid()


def test_a_worker_that_begins_while_another_looks_is_of_the_same_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slots are looked at once: what the other writes after that look, or before it, gives the same epoch."""
    one, other = EpochCounter(3, 1), EpochCounter(3, 1)
    other._table = one._table
    monkeypatch.setattr(epoch_counter, "_pool_of", lambda _: 1)
    monkeypatch.setattr(EpochCounter, "wait_for_others", lambda *_: None)
    look, begun = EpochCounter._slots, []

    def looked(table: EpochCounter) -> Any:
        slots = look(table)
        if not begun:
            begun.append(None)
            begun.append(other.claim(0))
        return slots

    monkeypatch.setattr(EpochCounter, "_slots", looked)
    assert (one.claim(1), begun[1]) == (3, 3)
