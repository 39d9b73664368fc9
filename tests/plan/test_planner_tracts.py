"""Where tracts overlap: which one a target is cut from, against counts of the pixels that the files hold."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsst.daf.butler import Butler, CollectionType  # type: ignore[attr-defined]

from lsstcutouts import ReadOptions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.plan.boxes import PatchRanges, covered_pixels
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import Planner
from lsstcutouts.plan.repository import Repository
from lsstcutouts.plan.tables import Reason
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.sky.geometry import YX
from lsstcutouts.sky.skymap import RingsGeometry

from ..support.contract import sentence
from ..support.examples import examples
from ..support.tract_pair import FIRST, GRID, INNER, SECOND, Pair, make_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


def positions(pair: Pair, count: int, seed: int) -> Catalog:
    """Return targets on and around the files of both tracts."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(np.array([k[:2] for k in pair.files]), count)
    sky = np.empty((count, 2))
    for i, (tract, patch) in enumerate(chosen.tolist()):
        box = pair.skymaps[tract].outer_box(patch)
        y, x = rng.uniform(box.y0 - 60, box.y1 + 60), rng.uniform(box.x0 - 60, box.x1 + 60)
        sky[i] = pair.skymaps[tract].sky(y, x)
    return Catalog.from_arrays(*sky.T)


def covers(pair: Pair, tract: int, band: str, ra: float, dec: float, size) -> np.ndarray:
    """Return which pixels of a box lie in some file of a tract."""
    x, y = pair.skymaps[tract].wcs.all_world2pix(ra, dec, 0)
    y0, x0 = (int(np.floor(c - (n - 1) / 2 + 0.5)) for c, n in zip((y, x), size, strict=True))
    covered = np.zeros(size, bool)
    for (t, _, b), one in pair.files.items():
        if (t, b) == (tract, band):
            top, left = one.start[0] - y0, one.start[1] - x0
            bottom, right = top + one.image.shape[0], left + one.image.shape[1]
            covered[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return covered


def nearest(pair: Pair, ra: float, dec: float) -> int:
    """Return the tract with the nearest centre of those that hold the position, as skymaps choose that are no rings."""

    def vector(a: float, d: float) -> np.ndarray:
        a, d = np.radians(a), np.radians(d)
        return np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])

    closeness = {}
    for tract, skymap in pair.skymaps.items():
        x, y = skymap.wcs.all_world2pix(ra, dec, 0)
        box = skymap.tract_box
        if -0.5 <= y < box.y1 - 0.5 and -0.5 <= x < box.x1 - 0.5:
            closeness[tract] = vector(*skymap.centre) @ vector(ra, dec)
    return max(closeness, key=closeness.get, default=-1)


@pytest.fixture(scope="module", params=["records", "rings"])
def repository(request: pytest.FixtureRequest, pair: Pair) -> Iterator[Repository]:
    with Repository(pair.repo.root, pair.repo.collections) as repository:
        if request.param == "rings":
            repository.rings = RingsGeometry(YX(*INNER), YX(*GRID), pixel_scale=0.2, border=133, clipped=False)
        yield repository


def plan_of(repository: Repository, catalog: Catalog, size, tract: str) -> CutoutPlan:
    return Planner(repository, "gr", size, tract).plan(catalog)


@sentence(18)
@examples(10)
@given(size=st.tuples(st.integers(1, 900), st.integers(1, 900)), seed=st.integers(0, 10**6))
def test_the_best_tract_covers_most(pair: Pair, repository: Repository, size, seed: int) -> None:
    catalog = positions(pair, 12, seed)
    plan = plan_of(repository, catalog, size, "best")
    chosen = dict(zip(plan.row.tolist(), plan.tract.tolist(), strict=True))
    for row, (ra, dec) in enumerate(zip(catalog.ra.tolist(), catalog.dec.tolist(), strict=True)):
        pixels = {t: sum(covers(pair, t, b, ra, dec, size).sum() for b in "gr") for t in pair.skymaps}
        primary = nearest(pair, ra, dec) if repository.rings is None else int(repository.rings.find(ra, dec))
        best = max(pixels, key=lambda t: (pixels[t], t == primary))
        assert chosen.get(row, -1) == (best if pixels[best] else -1)


@pytest.mark.parametrize("tract", ["primary", "best"])
@pytest.mark.parametrize("texts", [False, True])
def test_a_catalog_planned_in_parts_is_planned_as_a_whole(
    pair: Pair, repository: Repository, monkeypatch: pytest.MonkeyPatch, tract: str, *, texts: bool
) -> None:
    some, rng = positions(pair, 60, 3), np.random.default_rng(0)
    far = rng.permutation(80) < 20  # rows that nothing covers, anywhere in the catalog
    at = np.cumsum(~far) - 1
    ra, dec = np.where(far, 200.0, some.ra[at]), np.where(far, 80.0, some.dec[at])
    ids = [f"target {n}" for n in range(80)] if texts else rng.permutation(80)
    catalog = Catalog.from_arrays(
        ra, dec, ids, {"label": rng.normal(size=(80, 2)), "note": [f"{n}" for n in range(80)]}
    )
    whole = plan_of(repository, catalog, (30, 40), tract)
    for rows in (1, 7, 79):
        monkeypatch.setattr("lsstcutouts.plan.planner._AT_ONCE", rows)
        parts = plan_of(repository, catalog, (30, 40), tract)
        assert parts.projections == whole.projections
        assert vars(parts.files) == vars(whole.files)
        for mine, other in ((parts, whole), (parts.patches, whole.patches), (parts.rejected, whole.rejected)):
            for name, values in vars(other).items():
                if isinstance(values, np.ndarray):
                    np.testing.assert_array_equal(getattr(mine, name), values, err_msg=name)
                    assert getattr(mine, name).dtype == values.dtype
                elif name in {"object_id", "columns"}:
                    np.testing.assert_equal(getattr(mine, name), values)
    assert len(whole.rejected) >= 20


def own_tract(pair: Pair, repository: Repository, ra: float, dec: float) -> int:
    """Return the tract that the skymap gives a position to."""
    if repository.rings is None:
        return nearest(pair, ra, dec)
    height = 180 / 121
    ring = int((dec + 90 - height / 2) // height)
    if dec < height / 2 - 90:
        return 0
    assert ring == 0
    width = 360 / (int(2 * np.pi * np.cos(np.radians(1.5 * height - 90)) / np.radians(height)) + 1)
    return 1 + int(ra / width + 0.5) % round(360 / width)


@sentence(17)
@examples(10)
@given(size=st.tuples(st.integers(1, 900), st.integers(1, 900)), seed=st.integers(0, 10**6))
def test_the_own_tract_and_where_it_covers_nothing_the_best_other(
    pair: Pair, repository: Repository, size, seed: int
) -> None:
    catalog = positions(pair, 12, seed)
    plan = plan_of(repository, catalog, size, "primary")
    chosen = dict(zip(plan.row.tolist(), plan.tract.tolist(), strict=True))
    moved = dict(zip(plan.row.tolist(), plan.other_tract.tolist(), strict=True))
    strict, own = {}, {}
    for row, (ra, dec) in enumerate(zip(catalog.ra.tolist(), catalog.dec.tolist(), strict=True)):
        pixels = {t: sum(covers(pair, t, b, ra, dec, size).sum() for b in "gr") for t in pair.skymaps}
        own[row] = own_tract(pair, repository, ra, dec)
        if pixels.get(own[row], 0):
            strict[row] = own[row]
        others = {t: n for t, n in pixels.items() if t != own[row] and n}
        want = strict.get(row, max(others, key=others.get) if others else -1)
        assert chosen.get(row, -1) == want
        assert moved.get(row, False) == (want not in {-1, own[row]})
    assert plan.rejected.tract.tolist() == [own[row] for row in plan.rejected.row.tolist()]
    assert plan.summary().other_tract == sum(moved.values())
    if strict:
        only = plan_of(repository, catalog, size, "strict")
        assert dict(zip(only.row.tolist(), only.tract.tolist(), strict=True)) == strict
        assert not only.other_tract.any()


def test_pixels_of_the_best_tract_are_delivered(pair: Pair) -> None:
    size = (90, 61)
    catalog = positions(pair, 40, 2)
    with LsstDataFetcher(
        pair.repo.root,
        collections=pair.repo.collections,
        bands="gr",
        size=size,
        planes=("image", "valid"),
        cache_bytes="50 MB",
        read=ReadOptions(tract="best"),
    ) as fetcher:
        plan = fetcher.plan(catalog)
        batch = fetcher.fetch_plan(plan)
    assert set(plan.tract) == {FIRST, SECOND}
    check_pixels(pair, plan, batch, size)
    outside = 0
    for i in range(len(plan)):
        tract = int(plan.tract[i])
        x, y = pair.skymaps[tract].wcs.all_world2pix(plan.ra[i], plan.dec[i], 0)
        box = pair.skymaps[tract].tract_box
        outside += not (0 <= y < box.y1 and 0 <= x < box.x1)
    assert outside  # files reach beyond their tract: such a target has the nearest patch as its own


def check_pixels(pair: Pair, plan: CutoutPlan, batch, size) -> None:
    """Compare a batch with the pixels that the files hold of each target's tract."""
    for i in range(len(plan)):
        tract = int(plan.tract[i])
        x, y = pair.skymaps[tract].wcs.all_world2pix(plan.ra[i], plan.dec[i], 0)
        middle = batch["yx0"][i] + (np.array(size) - 1) / 2 + batch["offset"][i]
        np.testing.assert_allclose(middle, [y, x], atol=1e-4)
        for b, band in enumerate("gr"):
            held = covers(pair, tract, band, plan.ra[i], plan.dec[i], size)
            assert batch["band_present"][i, b] == held.any()
            assert not batch["image"][i, b][~held].any()
            assert not batch["valid"][i, b][~held].any()
            assert (batch["image"][i, b][held] != 0).all()
            assert batch["valid"][i, b][held].all()
    assert len(plan.blocks()) == len(plan)


def test_rejected_rows_are_covered_by_no_tract(pair: Pair, repository: Repository) -> None:
    inside = positions(pair, 5, 3)
    catalog = Catalog.from_arrays(np.append(inside.ra, [200.0, 18.0]), np.append(inside.dec, [45.0, -88.2]))
    plan = plan_of(repository, catalog, 64, "best")
    assert plan.rejected.row.tolist()[-2:] == [5, 6]
    assert plan.rejected.reason[-2] == Reason.OUTSIDE_TRACTS


def test_targets_of_a_tract_that_was_left_out(pair: Pair, tmp_path: Path) -> None:
    """A held-out subset: half of the targets on the files belong to the tract that is not there."""
    root = subset_of(pair, tmp_path / "subset", FIRST)
    catalog = positions(pair, 150, 6)
    far = Catalog.from_arrays(np.append(catalog.ra, 200.0), np.append(catalog.dec, -89.9))  # on tract 0, and on no file
    size = (90, 61)
    rings = RingsGeometry(YX(*INNER), YX(*GRID), pixel_scale=0.2, border=133, clipped=False)
    with Repository(root, pair.repo.collections) as repository:
        repository.rings = rings
        owner = np.array([own_tract(pair, repository, *one) for one in zip(catalog.ra, catalog.dec, strict=True)])
        held = [
            any(covers(pair, FIRST, b, *one, size).any() for b in "gr")
            for one in zip(catalog.ra, catalog.dec, strict=True)
        ]
        plan, strict = (plan_of(repository, far, size, tract) for tract in ("primary", "strict"))
    assert plan.row.tolist() == np.flatnonzero(held).tolist()
    assert plan.other_tract.tolist() == (owner != FIRST)[held].tolist()
    assert 20 < plan.other_tract.sum() < len(plan) - 20
    assert strict.row.tolist() == np.flatnonzero(np.array(held) & (owner == FIRST)).tolist()
    number, texts = strict.rejected.texts()
    said = dict(zip(strict.rejected.row.tolist(), (texts[n] for n in number.tolist()), strict=True))
    assert said[len(catalog)] == "no coadds in its tract, 0"
    assert {said[row] for row in np.flatnonzero(owner == SECOND).tolist()} == {f"no coadds in its tract, {SECOND}"}
    count = int((owner == SECOND).sum())
    assert f"not delivered: {count} rows, no coadds in its tract, {SECOND}" in str(strict.summary())
    assert strict.summary().as_dict()["rejected_tracts"]["in no tract that has coadds"] == {0: 1, SECOND: count}
    lacking = plan.rejected.row[plan.rejected.tract == FIRST].tolist()
    assert lacking
    assert all(
        said[row].startswith(f"no coadd in any band under the box; its tract is {FIRST}, patch ") for row in lacking
    )
    moved = int(plan.other_tract.sum())
    assert f"{moved} targets from another tract than their own" in str(plan.summary())
    # The pixels, and what the report says of them.
    with LsstDataFetcher(
        root, collections=pair.repo.collections, bands="gr", size=size, planes=("image", "valid")
    ) as fetcher:
        batch = fetcher.fetch_plan(plan)
        check_pixels(pair, plan, batch, size)
        assert fetcher.report.from_other_tract == fetcher.report.as_dict()["other_tract"] == moved
        assert f"{moved} of them from a tract other than their own" in str(fetcher.report)
        assert "not covered: 1 rows, no coadds in its tract, 0" in str(fetcher.report)
        # Without a known skymap the own tract is the nearest one that there is: here the only one.
        assert not fetcher.plan(catalog).other_tract[: len(plan)].all()


def subset_of(pair: Pair, root: Path, tract: int) -> Path:
    """Return a repository with the coadds of one tract."""
    with Butler.from_config(str(pair.repo.root), collections=pair.repo.collections) as source:
        refs = source.query_datasets("deep_coadd", where=f"tract = {tract}", limit=None)
        Butler.makeRepo(str(root))
        with Butler.from_config(str(root), writeable=True) as target:
            target.transfer_from(
                source, refs, transfer="copy", register_dataset_types=True, transfer_dimensions=True, skip_missing=False
            )
            target.collections.register(pair.repo.collections, CollectionType.CHAINED)
            target.collections.redefine_chain(pair.repo.collections, refs[0].run)
    return root


def test_the_butler_is_asked_in_bulk(pair: Pair) -> None:
    class Counting(Repository):
        calls = 0

        def locate(self, patches, bands):
            self.calls += 1
            return super().locate(patches, bands)

        def skymap_of(self, tracts=None):
            self.calls += 1
            return super().skymap_of(tracts)

    with Counting(pair.repo.root, pair.repo.collections) as repository:
        planner = Planner(repository, "gr", 64, "best")
        planner.plan(positions(pair, 200, 4))
        first = repository.calls
        assert first <= 5
        planner.plan(positions(pair, 200, 4))
        assert repository.calls == first


@examples(60)
@given(st.data())
def test_covered_pixels_equal_a_count(data: st.DataObject) -> None:
    step = data.draw(st.tuples(st.integers(3, 9), st.integers(3, 9)))
    grid = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    border = data.draw(st.tuples(st.integers(0, 11), st.integers(0, 11)))
    size = data.draw(st.tuples(st.integers(1, 25), st.integers(1, 25)))
    clipped = data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    tract = np.array(grid) * step
    yx0 = rng.integers(-30, tract + 30, (5, 2))
    exists = rng.random((grid[0] * grid[1], 2)) < 0.5
    low = np.clip((yx0 - border) // step, 0, np.array(grid) - 1)
    high = np.clip((yx0 + size - 1 + border) // step, 0, np.array(grid) - 1)
    ranges = PatchRanges(low, high, np.broadcast_to(step, (5, 2)), np.broadcast_to(grid, (5, 2)))
    got = covered_pixels(yx0, YX(*size), ranges, exists[ranges.patches()[1]], YX(*border), clipped=clipped)
    canvas = np.zeros((2, *(tract + 200)), bool)
    for patch, band in np.argwhere(exists).tolist():
        corner = np.array(divmod(patch, grid[1])) * step
        first, last = corner - border, corner + step + border
        if clipped:
            first, last = np.maximum(first, 0), np.minimum(last, tract)
        canvas[band, first[0] + 100 : last[0] + 100, first[1] + 100 : last[1] + 100] = True
    want = [canvas[:, y + 100 : y + 100 + size[0], x + 100 : x + 100 + size[1]].sum() for y, x in yx0.tolist()]
    assert got.tolist() == want


def test_files_that_end_with_the_tract(pair: Pair) -> None:
    """Skymaps without cells cut the outermost patches off at the tract's edge: one such file says so."""
    catalog = positions(pair, 20, 5)
    with Repository(pair.repo.root, pair.repo.collections) as repository:
        planner = Planner(repository, "gr", 64, "best")
        planner.plan(catalog)
        assert not planner._is_clipped()

        inside = next(f.uri for f in repository.samples() if f.patch % GRID[1] not in {0, GRID[1] - 1})

    class Cut(Repository):
        """Every file is one that stays inside its tract."""

        def locate(self, patches, bands):
            return [replace(f, uri=inside, size=-1) for f in super().locate(patches, bands)]

    with Cut(pair.repo.root, pair.repo.collections) as repository:
        planner = Planner(repository, "gr", 64, "best")
        planner.plan(catalog)
        assert planner._is_clipped()
