"""What many modules train on: the same targets, and what a loader alone makes of their epochs."""

import pytest

from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.testing import SimulatedRepository

from ..support.resuming import Runs


@pytest.fixture(scope="session")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    """Cutouts of 16 x 16 pixels in one band; a module may have another plan."""
    return build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="g", size=16)


@pytest.fixture(scope="module")
def runs(plan: CutoutPlan, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(plan, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def epochs(runs: Runs) -> list[list[list[int]]]:
    """Object ids of each batch of each of five epochs, from the data module's loader alone."""
    data = runs.data()
    data.setup()
    loader = data.train_dataloader()
    return [[batch["object_id"].tolist() for batch in loader] for _ in range(5)]
