"""Targets assigned to splits: by area, by column, by ids; no pixel in two of them."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from lsstcutouts import SplitOptions
from lsstcutouts.app.cli import main
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, LeakError
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.splits.assignment import SplitAssignment, assign_splits, find_leaks
from lsstcutouts.testing import SimulatedRepository

from ..loader.test_module import data_of

FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}
WAYS = ["tract", "patch", "block", "healpix", "auto"]


@pytest.fixture(scope="module")
def catalog(dp2_repo: SimulatedRepository) -> Catalog:
    return Catalog.from_any(dp2_repo.truth, columns=("label", "kind"))


def planned(repo: SimulatedRepository, catalog: Catalog, size=(40, 50)) -> CutoutPlan:
    return build_plan(repo.root, catalog, collections="dp2", bands="gri", size=size, columns=("label", "kind"))


@pytest.fixture(scope="module")
def plan(dp2_repo: SimulatedRepository, catalog: Catalog) -> CutoutPlan:
    return planned(dp2_repo, catalog)


def ids_of(assignment: SplitAssignment) -> dict[str, set[int]]:
    return {name: set(plan.object_id[rows].tolist()) for name, (plan, rows) in assignment.splits.items()}


def shared_pixels(assignment: SplitAssignment) -> int:
    """Return the pixels that are in boxes of two splits, painted one by one."""
    painted = []
    for name in ("train", "val", "test"):
        if name not in assignment.splits:
            continue
        plan, rows = assignment.splits[name]
        canvas = np.zeros((2000, 2000), bool)
        for y, x in plan.yx0[rows].tolist():
            assert min(y, x) >= 0
            canvas[y : y + plan.size.y, x : x + plan.size.x] = True
        painted.append(canvas)
    return int((np.sum(painted, axis=0) > 1).sum())


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_pixel_is_in_two_splits(plan: CutoutPlan, by: str, seed: int) -> None:
    assignment = assign_splits(plan, SplitOptions(FRACTIONS, by=by, healpix_order=11), seed=seed)
    assert shared_pixels(assignment) == 0
    assert find_leaks(assignment.splits) == ()
    # Each target is in one split, or listed as left out of one.
    parts = [assignment.splits[name][1] for name in FRACTIONS] + [
        assignment.dropped.get(name, []) for name in FRACTIONS
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(plan)))
    assert len(assignment.splits["predict"][1]) == len(plan)
    # What is left out does share pixels with a split that is more protected.
    undropped = assign_splits(plan, SplitOptions(FRACTIONS, by=by, healpix_order=11, leaks="warn"), seed=seed)
    assert (shared_pixels(undropped) > 0) == any(len(rows) for rows in assignment.dropped.values())


def test_boxes_larger_than_a_patch(dp2_repo: SimulatedRepository, catalog: Catalog) -> None:
    assignment = assign_splits(planned(dp2_repo, catalog, size=(200, 340)), SplitOptions({"train": 0.5, "val": 0.5}))
    assert len(assignment.splits["val"][1]) > 0
    assert shared_pixels(assignment) == 0


@pytest.mark.parametrize("by", WAYS)
def test_the_order_of_the_catalog_does_not_matter(
    dp2_repo: SimulatedRepository, catalog: Catalog, plan: CutoutPlan, by: str
) -> None:
    mixed = planned(dp2_repo, catalog[np.random.default_rng(3).permutation(len(catalog))])
    settings = SplitOptions(FRACTIONS, by=by, healpix_order=11)
    one, other = assign_splits(plan, settings), assign_splits(mixed, settings)
    assert ids_of(one) == ids_of(other)
    for name, rows in one.dropped.items():
        assert set(plan.object_id[rows].tolist()) == set(mixed.object_id[other.dropped[name]].tolist())


def test_areas_stay_whole(plan: CutoutPlan) -> None:
    from lsstcutouts.plan.splits.groups import area_names

    for by in WAYS:
        settings = SplitOptions(FRACTIONS, by=by, healpix_order=11, leaks="warn")
        names = area_names(plan, settings)
        parts = [
            set(names[rows].tolist())
            for name, (_, rows) in assign_splits(plan, settings).splits.items()
            if name in FRACTIONS
        ]
        assert not parts[0] & parts[1]
        assert not parts[1] & parts[2]


def test_healpix_cells_hold_their_targets(plan: CutoutPlan) -> None:
    from lsst.sphgeom import HealpixPixelization, LonLat, UnitVector3d

    from lsstcutouts.plan.splits.groups import area_names

    cells = area_names(plan, SplitOptions(None, by="healpix", healpix_order=12)).astype(int)
    assert len(set(cells.tolist())) > 3
    pixels = HealpixPixelization(12)
    for cell, ra, dec in zip(cells.tolist(), plan.ra.tolist(), plan.dec.tolist(), strict=True):
        assert pixels.pixel(cell).contains(UnitVector3d(LonLat.fromDegrees(ra, dec)))


def test_a_column_names_the_splits(dp2_repo: SimulatedRepository, catalog: Catalog, caplog) -> None:
    names = ["train", "val", "", "test", "other"] * (len(catalog) // 5)
    columns = {**catalog.columns, "part": names}
    tagged = Catalog.from_arrays(catalog.ra, catalog.dec, catalog.object_id, columns)
    plan = build_plan(dp2_repo.root, tagged, collections="dp2", bands="gri", size=80, columns=("part",))
    with caplog.at_level(logging.WARNING):
        assignment = assign_splits(plan, SplitOptions("part"))
    assert {n: len(rows) for n, (_, rows) in assignment.splits.items()} == {
        "train": 16,
        "val": 16,
        "test": 16,
        "predict": 80,
    }
    assert "32 of 80 targets belong to no split: column 'part' contains " in caplog.text
    assert " besides train, val and test" in caplog.text
    assert assignment.leaks
    assert "share pixels" in caplog.text
    with pytest.raises(ConfigurationError, match=r"contains 'galaxy'.*, but no train, val or test"):
        assign_splits(planned(dp2_repo, catalog), SplitOptions("kind"))


def test_ids_name_the_splits(plan: CutoutPlan, tmp_path: Path) -> None:
    ids = plan.object_id
    path = tmp_path / "val.csv"
    path.write_text("object_id\n" + "\n".join(map(str, ids[20:30].tolist())) + "\n")
    assignment = assign_splits(plan, SplitOptions({"train": ids[:20].tolist(), "val": str(path)}))
    assert assignment.splits["train"][1].tolist() == list(range(20))
    assert assignment.splits["val"][1].tolist() == list(range(20, 30))
    with pytest.raises(
        ConfigurationError,
        match="'train' lists object id 5, 6, which the catalog does not contain".replace("'train'", r"\['train'\]"),
    ):
        assign_splits(plan, SplitOptions({"train": [5, 6]}))
    with pytest.raises(ConfigurationError, match=r"object id .* is in both splits"):
        assign_splits(plan, SplitOptions({"train": ids[:3].tolist(), "val": ids[2:4].tolist()}))
    with pytest.raises(ConfigurationError, match=r"must be a list of ids \(integers or strings\)"):
        assign_splits(plan, SplitOptions({"train": [1.5]}))


def test_leaks_raise_and_say_where(plan: CutoutPlan) -> None:
    with pytest.raises(
        LeakError, match=r"targets of train and \d+ of val share pixels in \d+ pairs of boxes; object ids"
    ):
        assign_splits(plan, SplitOptions(FRACTIONS, leaks="raise", by="block"))


def test_a_selection_holds_for_the_splits(plan: CutoutPlan) -> None:
    assignment = assign_splits(plan, SplitOptions(FRACTIONS, select="label == 1 and tract > 0", leaks="warn"))
    for name, (_, rows) in assignment.splits.items():
        labels = np.asarray(plan.columns["label"])[rows]
        assert (labels == 1).all() or name == "predict"
    assert len(assignment.splits["predict"][1]) == len(plan)
    one = assign_splits(plan, SplitOptions(FRACTIONS, select={"val": "label == 0"}, leaks="warn"))
    assert set(np.asarray(plan.columns["label"])[one.splits["train"][1]].tolist()) == {0, 1}
    with pytest.raises(ConfigurationError, match="matches none of the"):
        assign_splits(plan, SplitOptions(FRACTIONS, select="label == 7"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shares": {"train": 0.5}}, "add up to 1"),
        ({"shares": {"train": 0.5, "holdout": 0.5}}, "use train, val and test"),
        ({"shares": {"train": 0.5, "val": [1, 2]}}, "either all fractions or all object ids"),
        ({"shares": 3}, "must map split names"),
        ({"by": "galaxy"}, "by must be one of"),
        ({"leaks": "hide"}, "leaks must be one of"),
        ({"healpix_order": 30}, "healpix_order"),
        ({"select": {"trian": "label == 1"}}, "select has unknown splits: trian"),
        ({"select": "label =="}, "has a syntax error"),
    ],
)
def test_settings_that_cannot_be(arguments, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SplitOptions(**arguments)


def test_the_data_module_assigns_and_selects(dp2_repo: SimulatedRepository) -> None:
    data = data_of(dp2_repo, columns=(), size=40, splits=SplitOptions(FRACTIONS, by="block", select="kind == 'lens'"))
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert "kind" not in batch
    assert data.plans.assignment is not None
    assert shared_pixels(data.plans.assignment) == 0
    assert set(data.plans.assignment.dropped) == {"train", "val", "test"}


def test_two_catalogs_may_leak(dp2_repo: SimulatedRepository, catalog: Catalog, caplog) -> None:
    both = {"train": catalog[:40], "val": catalog[38:]}
    data = data_of(dp2_repo, catalog=both)
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert data.plans.assignment is not None
    assert not any(len(rows) for rows in data.plans.assignment.dropped.values()) or not data.plans.assignment.leaks
    with pytest.raises(LeakError):
        data_of(dp2_repo, catalog=both, splits=SplitOptions(leaks="raise")).setup()


def test_the_verb_checks_for_leaks(
    dp2_repo: SimulatedRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["plan", f"repo={dp2_repo.root}", "collections=dp2", f"catalog={dp2_repo.truth}", "bands=gri", "size=40"]
    assert main([*common, "splits.shares={train: 0.5, val: 0.5}", "ranks=3"]) == 0
    shown = capsys.readouterr().out
    assert "No pixel is in two splits." in shown
    assert "3 ranks:" in shown
    # The patches of the table are those of the summary: with a coadd under a box.
    assert main([*common, "splits.shares={train: 0.5, val: 0.5}", "json=true"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["patches"] == 4
    assert all(1 <= part["patches"] <= 4 for part in summary["splits"].values())
    ids = Catalog.from_any(dp2_repo.truth).object_id
    for name, part in (("train", ids[::2]), ("val", ids[1::2])):
        (tmp_path / f"{name}.csv").write_text("object_id\n" + "\n".join(map(str, part.tolist())) + "\n")
    own = "splits.shares={" + ", ".join(f"{name}: {tmp_path / name}.csv" for name in ("train", "val")) + "}"
    assert main([*common, own]) == 1
    assert "LeakError: the splits share pixels" in capsys.readouterr().err
    assert main([*common, own, "splits.leaks=drop", "json=true"]) == 0
    found = json.loads(capsys.readouterr().out)["splits"]
    assert found["train"]["targets"] + found["train"]["dropped"] == 40
    assert found["val"]["dropped"] == 0
