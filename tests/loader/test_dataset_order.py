"""What a loader makes of ranks, weights and a place in an epoch."""

import logging
import re
from collections import Counter

import numpy as np
import pytest
import torch

from lsstcutouts import Sampling
from lsstcutouts.errors import ConfigurationError, ResumeError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.order.world import World
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.quality import Outcome
from lsstcutouts.testing import SimulatedRepository


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=16, columns=("label",))


def loader_of(plan: CutoutPlan, workers: int = 0, **changes) -> CutoutLoader:
    arguments = {"batch_size": 8, "cache_bytes": "100 MB", "threads": 1, "seed": 3, **changes}
    return CutoutLoader(CutoutDataset(plan, **arguments), num_workers=workers)


def ids(batches) -> list[int]:
    return torch.cat([b["object_id"] for b in batches]).tolist()


def test_weights_decide_how_often_a_target_comes(plan: CutoutPlan) -> None:
    weights = np.where(plan.object_id % 2 == 0, 3.0, 0.0)
    loader = loader_of(plan, sampling=Sampling(weights=weights, epoch_size=100))
    batches = list(loader)
    assert len(batches) == len(loader) == 13
    even = int((weights > 0).sum())
    counts = Counter(ids(batches))
    assert set(counts) == set(plan.object_id[weights > 0].tolist())
    assert set(counts.values()) <= {100 // even, 100 // even + 1}
    seen: Counter[int] = Counter()
    again = []
    for object_id, repeat in zip(ids(batches), torch.cat([b["repeat"] for b in batches]).tolist(), strict=True):
        again.append((object_id, repeat))
        seen[object_id] += 1
    assert len(set(again)) == 100  # each time a target comes has its own number
    assert loader.report.counts() == {Outcome.DELIVERED: even, Outcome.NOT_DRAWN: len(plan) - even}


def test_without_weights_a_batch_says_nothing_of_repeats(plan: CutoutPlan) -> None:
    assert "repeat" not in next(iter(loader_of(plan)))


def test_a_weighted_epoch_is_resumed(plan: CutoutPlan) -> None:
    changes = {"sampling": Sampling(weights=np.arange(1.0, len(plan) + 1), epoch_size=50)}
    whole, first = loader_of(plan, **changes), loader_of(plan, **changes)
    passing = iter(first)
    seen = ids([next(passing) for _ in range(2)])
    later = loader_of(plan, **changes)
    later.load_state_dict(first.state_dict())
    assert seen + ids(later) == ids(whole)


def test_ranks_without_a_target_get_padding(plan: CutoutPlan) -> None:
    rows = np.arange(18)  # two global batches of 8, and two targets for four ranks
    loaders = [
        loader_of(
            plan,
            rows=rows,
            batch_size=2,
            world=World(rank, 4),
            pads=True,
            sampling=Sampling(shuffle=False),
        )
        for rank in range(4)
    ]
    passes = [list(loader) for loader in loaders]
    assert [len(p) for p in passes] == [3] * 4
    real = [
        i for p in passes for b in p for i, pad in zip(b["object_id"].tolist(), b["is_padding"], strict=True) if not pad
    ]
    assert sorted(real) == sorted(plan.object_id[rows].tolist())
    assert [p[-1]["is_padding"].tolist() for p in passes] == [[False], [False], [True], [True]]
    assert sum((loader.report for loader in loaders[1:]), loaders[0].report).delivered == 18
    assert loaders[3].report.delivered == 4


def test_a_remainder_is_left_out_of_the_epoch_and_said(plan: CutoutPlan) -> None:
    loaders = [loader_of(plan, rows=np.arange(18), batch_size=2, world=World(rank, 4)) for rank in range(4)]
    passes = [list(loader) for loader in loaders]
    assert len(set(ids(b for p in passes for b in p))) == 16
    both = sum((loader.report for loader in loaders[1:]), loaders[0].report)
    assert both.counts() == {Outcome.DELIVERED: 16, Outcome.NOT_DRAWN: 2}
    assert "2 not part of this epoch" in str(both)


@pytest.mark.parametrize(("before", "after", "workers"), [(1, 2, 0), (2, 1, 2), (2, 4, 0), (4, 1, 0)])
def test_another_number_of_ranks_goes_on(plan: CutoutPlan, before: int, after: int, workers: int) -> None:
    def run(ranks: int, states: list | None = None) -> list[CutoutLoader]:
        loaders = [loader_of(plan, workers, batch_size=8 // ranks, world=World(r, ranks)) for r in range(ranks)]
        for loader in loaders if states else ():
            loader.load_state_dict(states[0])
        return loaders

    def steps(loaders: list[CutoutLoader]) -> list[list[int]]:
        return [sorted(i for b in step for i in b["object_id"].tolist()) for step in zip(*loaders, strict=True)]

    whole = steps(run(before))
    begun = run(before)
    passes = [iter(loader) for loader in begun]
    for _ in range(3):
        [next(p) for p in passes]
    assert steps(run(after, [loader.state_dict() for loader in begun])) == whole[3:]


def test_full_shuffling(plan: CutoutPlan) -> None:
    loader = loader_of(plan, sampling=Sampling(shuffle="full"))
    first, second = ids(loader), ids(loader)
    assert sorted(first) == sorted(second) == sorted(plan.object_id.tolist())
    assert first != second


def state_inside(plan: CutoutPlan, **changes) -> dict:
    loader = loader_of(plan, **changes)
    passing = iter(loader)
    next(passing), next(passing)
    return loader.state_dict()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 4}, r"per step of all ranks together \(batch_size x ranks\): 8 in the checkpoint, 4 now"),
        ({"batch_size": 8, "world": World(0, 2)}, "8 in the checkpoint, 16 now"),
        ({"rows": np.arange(70)}, "the plan or the split"),
        ({"rows": np.arange(70)}, "targets per epoch: 80 in the checkpoint, 70 now"),
        ({"seed": 4}, "seed: 3 in the checkpoint, 4 now"),
        ({"sampling": Sampling(shuffle="full")}, "shuffle: block in the checkpoint, full now"),
        ({"sampling": Sampling(shuffle_width=5)}, "shuffle_width: 32 in the checkpoint, 5 now"),
        ({"sampling": Sampling(epoch_size=80)}, "weights, balance, epoch_size"),
    ],
)
def test_what_has_changed_is_explained(plan: CutoutPlan, changes, words: str) -> None:
    later = loader_of(plan, **changes)
    with pytest.raises(ResumeError, match="after batch 2 of epoch 0, which cannot be resumed with") as caught:
        later.load_state_dict(state_inside(plan))
    assert re.search(words, str(caught.value))
    assert len(ids(later)) > 0  # and the loader is as it was


def test_between_epochs_a_change_is_a_warning(plan: CutoutPlan, caplog: pytest.LogCaptureFixture) -> None:
    before = loader_of(plan)
    ids(before)
    later = loader_of(plan, batch_size=5)
    with caplog.at_level(logging.WARNING):
        later.load_state_dict(before.state_dict())
    assert "8 in the checkpoint, 5 now" in caplog.text
    wanted = loader_of(plan, batch_size=5)
    wanted.set_epoch(1)
    assert ids(later) == ids(wanted)


def test_another_catalog_of_the_same_length_is_noticed(plan: CutoutPlan, dp2_repo: SimulatedRepository) -> None:
    other = build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=24, columns=("label",))
    with pytest.raises(ResumeError, match="another catalog, repository, size"):
        loader_of(other).load_state_dict(state_inside(plan))


def test_a_place_without_settings_is_taken_at_its_word(plan: CutoutPlan) -> None:
    loader = loader_of(plan, batch_size=5)
    loader.load_state_dict({"epoch": 0, "batch": 3})
    assert len(ids(loader)) == 80 - 15


def test_the_state_is_plain(plan: CutoutPlan) -> None:
    state = loader_of(plan, sampling=Sampling(weights=np.ones(80))).state_dict()
    assert {type(v) for v in state["order"].values()} == {int, str}


def test_too_few_targets_for_the_ranks(plan: CutoutPlan) -> None:
    with pytest.raises(ConfigurationError, match="2 targets are too few for 4 ranks"):
        loader_of(plan, rows=np.arange(2), world=World(0, 4))


@pytest.mark.parametrize("ranks", [3, 8])
def test_what_ranks_read_twice(plan: CutoutPlan, ranks: int) -> None:
    shared = plan.shared_reading(ranks)
    assert plan.shared_reading(1).read_twice == 0
    assert 0 < shared.shared_files <= shared.files == len(plan.files)
    assert shared.read_twice > 0
    assert f"{ranks} ranks: {shared.shared_files} of" in str(plan.summary(ranks=ranks))
    assert plan.summary(ranks=ranks).as_dict()["shared"]["ranks"] == ranks
