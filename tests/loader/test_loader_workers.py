"""Whatever reads, threads or worker processes, few or many, started in any way: the loader gives the same batches."""

from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from lsstcutouts import ReadOptions, Sampling
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.order.world import World
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

type Batches = list[dict[str, Any]]


class Way(NamedTuple):
    """How a loader reads."""

    workers: int = 0
    context: str | None = None
    ahead: int | None = None
    threads: int = 2
    copied: bool = False
    timeout: float = 0

    def loader(self, plan: CutoutPlan, changes: dict[str, Any]) -> CutoutLoader:
        """Return a loader that reads in this way, of a dataset that differs from the usual one."""
        arguments = {"batch_size": 9, "cache_bytes": "100 MB", "threads": self.threads, "seed": 5, **changes}
        dataset = CutoutDataset(plan, **arguments)
        return CutoutLoader(
            deepcopy(dataset) if self.copied else dataset,
            num_workers=self.workers,
            multiprocessing_context=self.context,
            prefetch_factor=self.ahead,
            timeout=self.timeout,
        )


WAYS = {
    "one thread": Way(threads=1),
    "four threads": Way(threads=4),
    "one forked worker": Way(1, "fork", 1),
    "three forked workers": Way(3, "fork", timeout=120),
    "three forked workers far ahead": Way(3, "fork", 4),
    "two workers": Way(2, ahead=3),
    "a worker and a copied dataset": Way(1, threads=1, copied=True),
    "three workers": Way(3, "forkserver", 4),
    "two spawned workers": Way(2, "spawn", 4),
}
SLOW = {"three workers", "two spawned workers"}

DATASETS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weighted": {"sampling": Sampling(weights=np.arange(80) % 3.0, epoch_size=100)},
    "with planes, skipping": {"planes": ("image", "variance", "valid"), "read": ReadOptions(missing_band="skip")},
    # Two global batches of 8, and two targets for four ranks.
    "a padded rank": {
        "rows": np.arange(18),
        "batch_size": 2,
        "world": World(3, 4),
        "pads": True,
        "sampling": Sampling(shuffle=False),
    },
}


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=32, columns=("label", "kind"))


def assert_same(found: Batches, wanted: Batches) -> None:
    """Compare every entry of every batch."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name


@pytest.mark.parametrize(
    ("way", "dataset"),
    [
        *(pytest.param(w, "plain", marks=[pytest.mark.slow] * (w in SLOW)) for w in WAYS),
        *(("two workers", d) for d in DATASETS if d != "plain"),
    ],
)
def test_every_way_of_reading_gives_the_same(plan: CutoutPlan, way: str, dataset: str) -> None:
    """Epoch by epoch, behind a pass that is given up, and from a state that another way of reading took."""
    loader = WAYS[way].loader(plan, DATASETS[dataset])
    alone = Way(threads=1).loader(plan, DATASETS[dataset])
    epochs = []
    for epoch in range(4):
        epochs.append(list(alone))
        if epoch < 2:
            assert_same(list(loader), epochs[epoch])
            assert loader.position == alone.position == (epoch, len(epochs[0]))
            assert str(loader.report) == str(alone.report)
    assert len(loader) == len(alone) == len(epochs[0])
    passing = iter(loader)
    seen = [next(passing) for _ in range(2)]
    state = loader.state_dict()
    del passing
    assert_same(list(loader), epochs[3])
    alone.set_epoch(2)
    passing = iter(alone)
    next(passing), next(passing)
    assert state == alone.state_dict()
    assert (state["epoch"], state["batch"]) == (2, 2)
    loader.load_state_dict(state)
    assert_same(seen + list(loader), epochs[2])
    loader.load_state_dict({"epoch": 0, "batch": len(loader)})  # the end of an epoch
    assert_same(list(loader), epochs[1])
