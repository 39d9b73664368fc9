"""Plans and deliveries of the shared repositories, as the tests of policies and damage want them."""

import numpy as np

from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader, Delivery
from lsstcutouts.testing import SimulatedRepository

SIZE = (32, 45)


def plan_of(repo: SimulatedRepository, **changes) -> CutoutPlan:
    arguments = {"collections": repo.collections, "bands": "gri", "size": SIZE, **changes}
    return build_plan(repo.root, repo.truth, **arguments)


def deliver(plan: CutoutPlan, rows=None, *, pad: bool = False, **options) -> Delivery:
    reader = CutoutReader(plan, ReaderOptions(**options), cache=TileCache("100 MB"))
    try:
        return reader.deliver(np.arange(len(plan)) if rows is None else np.asarray(rows), pad=pad)
    finally:
        reader.close()
