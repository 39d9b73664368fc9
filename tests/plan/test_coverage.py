"""The picture of a plan: what it counts, and which files it writes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lsstcutouts.errors import ConfigurationError
from lsstcutouts.plan.coverage import DRAWN_AS_POINTS, Coverage
from lsstcutouts.plan.coverage_figure import write_coverage
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.splits.assignment import assign_splits
from lsstcutouts.plan.splits.split_options import SplitOptions
from lsstcutouts.testing import SimulatedRepository


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository) -> CutoutPlan:
    return build_plan(dp2_repo.root, dp2_repo.truth, collections=dp2_repo.collections, bands="gri", size=32)


def test_patches_and_targets_are_where_the_projection_says(plan: CutoutPlan) -> None:
    coverage = Coverage.of(plan)
    assert coverage.targets.sum() == len(plan)
    names = dict(zip(coverage.patch.tolist(), range(len(coverage.patch)), strict=True))
    assert coverage.bands_of(names[8], missing=True) == "g"
    assert coverage.bands_of(names[14], missing=False) == "g, r"
    x, y = coverage.layers[0].x, coverage.layers[0].y
    assert np.corrcoef(x, plan.ra)[0, 1] < -0.99  # RA increases to the left
    assert np.corrcoef(y, plan.dec)[0, 1] > 0.99
    assert coverage.inside(coverage.layers[0]).all()


def test_splits_are_layers_and_lose_no_target(plan: CutoutPlan) -> None:
    splits = assign_splits(plan, SplitOptions(shares={"train": 0.5, "val": 0.5}))
    layers = Coverage.of(plan, splits).layers
    assert {"train", "val"} <= {one.name for one in layers}
    assert sum(len(one.x) for one in layers) == len(plan)


def test_a_sky_across_ra_0_is_in_one_piece(plan: CutoutPlan) -> None:
    moved = {tract: replace(one, crval=(0.0, -5.0)) for tract, one in plan.projections.items()}
    x0, x1, _, _ = Coverage.of(replace(plan, projections=moved)).view
    assert x1 - x0 < 2


def test_many_targets_become_a_density(plan: CutoutPlan) -> None:
    chosen = np.resize(np.arange(len(plan)), DRAWN_AS_POINTS + 1)
    coverage = Coverage.of(replace(plan, ra=plan.ra[chosen], dec=plan.dec[chosen], row=chosen))
    assert np.nansum(coverage.density(coverage.layers[0])) == len(chosen)


def test_each_format_is_written(plan: CutoutPlan, tmp_path: Path) -> None:
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!DOCTYPE html>"}
    for kind, start in begins.items():
        write_coverage(tmp_path / "new" / f"a.{kind}", Coverage.of(plan))
        assert (tmp_path / "new" / f"a.{kind}").read_bytes().lstrip().startswith(start)
    with pytest.raises(ConfigurationError, match=r"\.png, \.pdf, \.svg or \.html"):
        write_coverage(tmp_path / "a.jpg", Coverage.of(plan))
