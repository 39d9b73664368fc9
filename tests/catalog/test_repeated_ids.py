"""Catalogs with several rows of one id, such as tables of sources: each row is a target of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lsstcutouts.catalog.checks import RepeatedIdWarning
from lsstcutouts.catalog.ids import hash_ids, repeats_ids
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, PlanError
from lsstcutouts.loader.dataset import CutoutDataset
from lsstcutouts.loader.loader import CutoutLoader
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.read_options import ReadOptions
from lsstcutouts.plan.splits.assignment import assign_splits
from lsstcutouts.plan.splits.split_options import SplitOptions
from lsstcutouts.read.export import write_fits
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.testing import SimulatedRepository
from lsstcutouts.transforms import RandomD4


@pytest.fixture(params=["number", "text"])
def catalog(dp2_repo: SimulatedRepository, request: pytest.FixtureRequest) -> Catalog:
    """Return 20 positions with 10 ids, and one outside the coverage."""
    truth = pq.read_table(dp2_repo.truth)[:20]
    ids = [i // 2 for i in range(20)] + [0]
    ra, dec = (np.append(truth[name].to_numpy(), other) for name, other in (("ra", 10.0), ("dec", 10.0)))
    with pytest.warns(RepeatedIdWarning, match=r"11 ids of column 'object_id' occur more than once, the first J?0"):
        return Catalog.from_arrays(ra, dec, ids if request.param == "number" else [f"J{i}" for i in ids])


@pytest.fixture
def plan(dp2_repo: SimulatedRepository, catalog: Catalog) -> CutoutPlan:
    return build_plan(dp2_repo.root, catalog, collections="dp2", bands="gri", size=24)


def test_what_is_random_follows_id_and_row(plan: CutoutPlan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.parquet")
    keys: dict[int, Any] = {}
    for one, size in ((plan, 5), (CutoutPlan.load(tmp_path / "plan.parquet"), 8)):
        assert one.repeats_ids
        dataset = CutoutDataset(one, batch_size=size, threads=1, cache_bytes="20 MB", read=ReadOptions(fill="noise"))
        for batch in CutoutLoader(dataset, num_workers=0):
            targets = one.targets_in(batch)
            np.testing.assert_array_equal(one.ra[targets], batch["ra"])
            np.testing.assert_array_equal(batch["object_hash"], one.keys(targets))
            for target, choice, image in zip(
                targets.tolist(), RandomD4(3).keys(batch).tolist(), batch["image"], strict=True
            ):
                known, pixels = keys.setdefault(target, (choice, image))
                assert known == choice
                assert torch.equal(pixels, image)
    assert len({choice for choice, _ in keys.values()}) == len(plan) == 20
    assert len(set(plan.keys().tolist())) == 20


def test_unique_ids_keep_their_numbers(plan: CutoutPlan, dp2_repo: SimulatedRepository, catalog: Catalog) -> None:
    assert not repeats_ids(catalog.take(slice(0, 20, 2)).object_id)
    part = build_plan(dp2_repo.root, catalog[0:20:2], collections="dp2", bands="gri", size=24)
    assert not part.repeats_ids
    np.testing.assert_array_equal(part.keys(), hash_ids(part.object_id))
    assert part.targets_of(part.object_id).tolist() == list(range(10))
    with pytest.raises(PlanError, match=r"several targets of the plan have one id.*object_id="):
        plan.targets_of(plan.object_id)


def test_lists_of_ids_mean_all_their_rows(plan: CutoutPlan) -> None:
    ids = plan.object_id if isinstance(plan.object_id, list) else plan.object_id.tolist()
    shares = {"train": [ids[0], ids[4]], "val": [ids[8]]}
    rows = {name: r for name, (_, r) in assign_splits(plan, SplitOptions(shares, leaks="warn"), seed=0).splits.items()}
    assert rows["train"].tolist() == [0, 1, 4, 5]
    assert rows["val"].tolist() == [8, 9]


def test_fetching_and_writing(
    plan: CutoutPlan, dp2_repo: SimulatedRepository, catalog: Catalog, tmp_path: Path
) -> None:
    with LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gri", size=24, threads=1) as fetcher:
        with pytest.warns(RepeatedIdWarning):
            whole = fetcher.fetch(catalog.ra, catalog.dec, object_id=catalog.object_id)
        np.testing.assert_array_equal(whole["ra"], catalog.ra)
        batch = fetcher.fetch_plan(plan)
        np.testing.assert_array_equal(whole["image"][:20], batch["image"])
        written = write_fits(batch, tmp_path, plan)
        assert len(set(written)) == 20
        assert written[3].name.endswith("_row3.fits")
        with pytest.raises(ConfigurationError, match="several targets of the batch have one id"):
            fetcher.write_fits(batch, tmp_path / "other")
