"""Pixels of batches against `butler.get` (DP2) and astropy (DP1), over random boxes, patches and missing bands."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import ConfigurationError, CorruptFileError, GeometryMismatchError, MissingFileError
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import Planner, build_plan
from lsstcutouts.plan.repository import Repository
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.open_files import OpenFiles
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader, Request, stream
from lsstcutouts.read.threads import Threads
from lsstcutouts.testing import SimulatedRepository

from ..support.examples import examples
from ..support.oracle import expected, files_of

RELEASES = ("dp2_repo", "dp1_repo")


@pytest.fixture(scope="module", params=RELEASES)
def repo(request: pytest.FixtureRequest) -> SimulatedRepository:
    return request.getfixturevalue(request.param)


def plan_of(repo: SimulatedRepository, bands="gri", size=(32, 45), catalog=None) -> CutoutPlan:
    return build_plan(repo.root, catalog or repo.truth, collections=repo.collections, bands=bands, size=size)


def random_positions(repo: SimulatedRepository, count: int, seed: int) -> Catalog:
    """Return positions all over the files and a little beyond them."""
    rng = np.random.default_rng(seed)
    with Repository(repo.root, repo.collections) as repository:
        tract = repository.skymap_of().tracts[repo.tract]
    starts = np.array([f.start for f in files_of(repo).values()])
    ends = starts + np.array([f.image.shape for f in files_of(repo).values()])
    low, high = np.maximum(starts.min(axis=0) - 20, 0), np.minimum(ends.max(axis=0) + 20, tract.bbox[1::2])
    y, x = (rng.uniform(a, b - 1, count) for a, b in zip(low, high, strict=True))
    return Catalog.from_arrays(*tract.projection.pixel_to_sky(y, x))


def check(repo: SimulatedRepository, plan: CutoutPlan, batch) -> None:
    for target in range(len(plan)):
        want = expected(repo, plan, target)
        np.testing.assert_array_equal(batch["image"][target], want.image)
        np.testing.assert_array_equal(batch["variance"][target], want.variance)
        np.testing.assert_array_equal(batch["valid"][target], want.valid)
        np.testing.assert_array_equal(batch["band_present"][target], want.present)


@examples(12)
@given(size=st.tuples(st.integers(1, 330), st.integers(1, 420)), seed=st.integers(0, 10**6))
def test_boxes_of_any_size_equal_the_oracle(repo: SimulatedRepository, size, seed: int) -> None:
    plan = plan_of(repo, size=size, catalog=random_positions(repo, 6, seed))
    reader = CutoutReader(plan, ReaderOptions(planes=("image", "variance", "valid")), cache=TileCache("100 MB"))
    check(repo, plan, reader.read(np.arange(len(plan))))
    reader.close()


def test_the_catalog_equals_the_oracle_through_the_pool(repo: SimulatedRepository) -> None:
    plan = plan_of(repo)
    reader = CutoutReader(plan, ReaderOptions(planes=("image", "variance", "valid")), cache=TileCache("100 MB"))
    threads = Threads(4)
    batch = reader.submit(threads, Request(np.arange(len(plan))), then=lambda delivery: delivery.batch).result()
    check(repo, plan, batch)
    reader.close()


def test_a_small_cache_gives_the_same_pixels(repo: SimulatedRepository) -> None:
    plan = plan_of(repo)
    targets = np.arange(len(plan))
    batch_bytes = len(plan) * len(plan.bands) * plan.size.y * plan.size.x * 4
    reader = CutoutReader(plan, cache=TileCache(batch_bytes + 300_000))
    tiny = reader.read(targets)["image"]
    assert reader.cache.stats().evictions > 0
    np.testing.assert_array_equal(tiny, CutoutReader(plan, cache=TileCache("100 MB")).read(targets)["image"])


@pytest.mark.parametrize("bands", ["g", "i", "gi", "ig", "rgi", "ugr", "u"])
def test_missing_bands_are_zero_in_every_combination(repo: SimulatedRepository, bands: str) -> None:
    if bands == "u":
        with pytest.raises(LookupError, match="covered"):
            plan_of(repo, bands=bands)
        return
    plan = plan_of(repo, bands=bands)
    batch = CutoutReader(plan, ReaderOptions(planes=("image", "variance", "valid")), cache=TileCache("100 MB")).read(
        np.arange(len(plan))
    )
    check(repo, plan, batch)
    absent = ~batch["band_present"]
    # With one band alone its absence leaves nothing to deliver: such rows are listed instead.
    assert absent.any() == (len(bands) > 1)
    assert len(plan.rejected) >= (len(bands) == 1)
    assert not batch["image"][absent].any()
    assert not batch["valid"][absent].any()


def test_neighbours_fill_what_the_primary_patch_lacks(dp2_repo: SimulatedRepository) -> None:
    """Patch 8 has no g: targets near its border take g from patch 9 or 13, the others stay without."""
    plan = plan_of(dp2_repo, catalog=random_positions(dp2_repo, 400, 3))
    rows = np.flatnonzero(plan.patch == 8)
    batch = CutoutReader(plan, ReaderOptions(planes=("image", "valid")), cache=TileCache("100 MB")).read(rows)
    present = batch["band_present"][:, 0]
    assert present.any()
    assert not present.all()
    assert batch["band_present"][:, 1].all()
    partly = batch["valid"][present, 0].mean(axis=(1, 2))
    assert partly.min() < 1


def test_mask_bits_are_the_requested_ones_in_every_file(repo: SimulatedRepository) -> None:
    """The bit numbers differ between the files; those of the batch do not."""
    plan = plan_of(repo)
    names = ("NO_DATA", "DETECTED")
    reader = CutoutReader(
        plan, ReaderOptions(planes=("mask", "valid", "image"), mask_planes=names), cache=TileCache("100 MB")
    )
    batch = reader.read(np.arange(len(plan)))
    assert batch["mask"].dtype == np.int32
    assert set(np.unique(batch["mask"])) <= {0, 1, 2, 3}
    assert (batch["mask"] & 2).any()
    no_data = batch["mask"] & 1 == 1
    assert no_data.any()
    assert not (no_data & batch["valid"]).any()
    reader.close()


def test_rows_describe_their_target(repo: SimulatedRepository) -> None:
    plan = build_plan(
        repo.root, repo.truth, collections=repo.collections, bands="r", size=21, columns=("label", "kind")
    )
    rows = np.array([5, 2, 30])
    batch = CutoutReader(plan, cache=TileCache("100 MB")).read(rows)
    for name in ("object_id", "ra", "dec", "tract", "patch"):
        np.testing.assert_array_equal(batch[name], getattr(plan, name)[rows])
    middle = batch["yx0"] + 10 + batch["offset"]
    yx = plan.projections[repo.tract].sky_to_pixel(batch["ra"], batch["dec"])
    np.testing.assert_allclose(middle, np.column_stack([yx.y, yx.x]), atol=1e-4)
    assert np.abs(batch["offset"]).max() <= 0.5
    assert batch["kind"] == [plan.columns["kind"][r] for r in rows]
    assert not batch["is_padding"].any()


def test_stream_keeps_the_order_and_closes(repo: SimulatedRepository) -> None:
    plan = plan_of(repo)
    reader = CutoutReader(plan, cache=TileCache("100 MB"))
    batches = [Request(np.arange(i, min(i + 7, len(plan)))) for i in range(0, len(plan), 7)]
    ids = list(stream(reader, iter(batches), threads=3, ahead=4, then=lambda delivery: delivery.batch["object_id"]))
    np.testing.assert_array_equal(np.concatenate(ids), plan.object_id)


def test_a_reader_pickles_without_its_files_and_tiles(dp2_repo: SimulatedRepository) -> None:
    plan = plan_of(dp2_repo)
    reader = CutoutReader(plan, cache=TileCache("100 MB"))
    first = reader.read(np.arange(4))["image"]
    copy = pickle.loads(pickle.dumps(reader))
    assert len(copy.cache) == 0
    np.testing.assert_array_equal(copy.read(np.arange(4))["image"], first)
    reader.close(), copy.close()


def swapped(plan: CutoutPlan, **changes) -> CutoutPlan:
    return CutoutPlan(**{**plan.__dict__, **changes})


def test_a_file_of_another_tract_is_refused(dp2_repo: SimulatedRepository) -> None:
    from lsstcutouts.sky.geometry import TanProjection

    plan = plan_of(dp2_repo)
    one = plan.projections[dp2_repo.tract]
    moved = TanProjection(one.crval, (one.crpix[0] + 1, one.crpix[1]), one.cd)
    with pytest.raises(GeometryMismatchError, match=r"\.fits.*: its WCS differs by 1\.000 px from that of tract 5063"):
        CutoutReader(swapped(plan, projections={dp2_repo.tract: moved})).read(np.arange(3))


def test_a_vanished_file_is_an_error_and_not_an_absent_band(dp2_repo: SimulatedRepository, tmp_path) -> None:
    plan = plan_of(dp2_repo)
    files = type(plan.files)(
        tuple(str(tmp_path / "gone.fits") for _ in plan.files.uri), plan.files.size, plan.files.dataset_id
    )
    with pytest.raises(MissingFileError, match=r"gone\.fits"):
        CutoutReader(swapped(plan, files=files)).read(np.arange(3))


def test_a_file_of_another_size_is_an_error(dp2_repo: SimulatedRepository) -> None:
    plan = plan_of(dp2_repo)
    files = type(plan.files)(plan.files.uri, tuple(s + 2880 for s in plan.files.size), plan.files.dataset_id)
    with pytest.raises(CorruptFileError, match=r"\.fits"):
        CutoutReader(swapped(plan, files=files)).read(np.arange(3))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"planes": ("imge",)}, "planes must be names from"),
        ({"planes": ()}, "planes must be names from"),
        ({"planes": "imge"}, "planes must be names from"),
        ({"mask_planes": "SAT", "planes": "mask"}, "different names"),
        ({"planes": ("mask",)}, "given together"),
        ({"mask_planes": ("SAT",)}, "given together"),
        ({"planes": ("mask",), "mask_planes": ("SAT", "SAT")}, "different names"),
    ],
)
def test_planes_that_cannot_be(arguments, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ReaderOptions(**arguments)


def test_open_files_are_shared_and_closed(dp2_repo: SimulatedRepository) -> None:
    plan = plan_of(dp2_repo)
    files, options = OpenFiles(TileCache("10 MB")), ReaderOptions()
    index = files.index(plan, 0, dp2_repo.tract, options)
    assert index is files.index(plan, 0, dp2_repo.tract, options)
    assert index is not files.index(plan, 0, dp2_repo.tract, replace(options, planes=("variance",)))
    source = files.source(plan, 0, index)
    assert source is files.source(plan, 0, index)
    files.close()
    assert source is not files.source(plan, 0, index)
    assert index is files.index(plan, 0, dp2_repo.tract, options)


def test_planner_is_asked_once(dp2_repo: SimulatedRepository) -> None:
    """A second plan of the same area needs no query."""
    with Repository(dp2_repo.root, dp2_repo.collections) as repository:
        planner = Planner(repository, "gri", 32)
        catalog = Catalog.from_any(dp2_repo.truth)
        first = planner.plan(catalog)
    second = planner.plan(catalog)  # the repository is closed
    assert second.fingerprint() == first.fingerprint()
