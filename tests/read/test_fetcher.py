"""The data access layer as a user has it."""

import gc
import hashlib
import os
import pickle
import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS
from lsst.daf.butler import Butler

from lsstcutouts import ReadOptions
from lsstcutouts.catalog.targets import Catalog
from lsstcutouts.errors import CatalogError, ConfigurationError, CoverageError, MemoryBudgetError, PlaneError, PlanError
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.read.export import batch_wcs
from lsstcutouts.read.fetcher import LsstDataFetcher
from lsstcutouts.testing import SimulatedRepository

from ..support.oracle import expected


def fetcher_of(repo: SimulatedRepository, **changes) -> LsstDataFetcher:
    arguments = {"collections": repo.collections, "bands": "gri", "size": 40, "threads": 2, "cache_bytes": "100 MB"}
    return LsstDataFetcher(repo.root, **{**arguments, **changes})


@pytest.mark.parametrize("name", ["dp2_repo", "dp1_repo"])
def test_fetch_equals_the_oracle(name: str, request: pytest.FixtureRequest) -> None:
    repo = request.getfixturevalue(name)
    catalog = Catalog.from_any(repo.truth)
    with fetcher_of(repo, planes=("image", "valid")) as fetcher:
        batch = fetcher.fetch(catalog.ra, catalog.dec, object_id=catalog.object_id)
        plan = fetcher.plan(catalog)
    np.testing.assert_array_equal(batch["object_id"], catalog.object_id)
    for target, row in enumerate(plan.row.tolist()):
        want = expected(repo, plan, target)
        np.testing.assert_array_equal(batch["image"][row], want.image)
        np.testing.assert_array_equal(batch["valid"][row], want.valid)
    for row in plan.rejected.row.tolist():
        assert batch["tract"][row] == batch["patch"][row] == -1
        assert not batch["band_present"][row].any()


def test_a_box_inside_one_coadd_equals_butler_get(dp2_repo: SimulatedRepository) -> None:
    from lsst.images import Box

    with fetcher_of(dp2_repo) as fetcher:
        plan = fetcher.plan(dp2_repo.truth)
        target = next(i for i in range(len(plan)) if not plan.others_of(i) and plan.patch[i] == 9)
        image = fetcher.fetch_plan(plan, [target])["image"][0]
    y0, x0 = plan.yx0[target].tolist()
    with Butler.from_config(str(dp2_repo.root), collections="dp2") as butler:
        for channel, band in zip(image, "gri", strict=True):
            data_id = {"tract": 5063, "patch": 9, "band": band, "skymap": dp2_repo.skymap}
            bbox = Box.factory[y0 : y0 + 40, x0 : x0 + 40]
            np.testing.assert_array_equal(
                channel, butler.get("deep_coadd.image", data_id, parameters={"bbox": bbox}).array
            )


def test_one_position(dp2_repo: SimulatedRepository) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    with fetcher_of(dp2_repo) as fetcher:
        batch = fetcher.fetch(float(catalog.ra[3]), float(catalog.dec[3]))
    assert batch["image"].shape == (1, 3, 40, 40)
    assert batch["image"].dtype == np.float32
    assert batch["object_id"].tolist() == [0]


def test_a_second_fetch_asks_nothing_and_decodes_nothing(dp2_repo: SimulatedRepository) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    with fetcher_of(dp2_repo) as fetcher:
        first = fetcher.fetch(catalog.ra, catalog.dec)
        before = fetcher.cache_info()
        assert before.misses > 0
        # A closed Butler cannot be asked: an absence that was not remembered would raise here.
        fetcher._planner.repository.close()
        second = fetcher.fetch(catalog.ra, catalog.dec)
        since = fetcher.cache_info() - before
    np.testing.assert_array_equal(first["image"], second["image"])
    assert since.misses == 0
    assert since.hit_rate == 1.0


def test_refresh_forgets(dp2_repo: SimulatedRepository) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    with fetcher_of(dp2_repo) as fetcher:
        fetcher.fetch(catalog.ra[:5], catalog.dec[:5])
        misses = fetcher.cache_info().misses
        fetcher.refresh()
        fetcher.fetch(catalog.ra[:5], catalog.dec[:5])
        assert fetcher.cache_info().misses == 2 * misses


def test_rows_of_a_plan_in_any_order(dp2_repo: SimulatedRepository) -> None:
    plan = build_plan(dp2_repo.root, dp2_repo.truth, collections="dp2", bands="gri", size=40, columns=("kind",))
    with fetcher_of(dp2_repo) as fetcher:
        whole = fetcher.fetch_plan(plan)
        some = fetcher.fetch_plan(plan, [7, 3, 3])
        with pytest.raises(ConfigurationError, match="integers between"):
            fetcher.fetch_plan(plan, [len(plan)])
    np.testing.assert_array_equal(some["image"], whole["image"][[7, 3, 3]])
    assert some["kind"] == [plan.columns["kind"][i] for i in (7, 3, 3)]


def test_a_closed_fetcher_opens_again(dp2_repo: SimulatedRepository) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    fetcher = fetcher_of(dp2_repo)
    first = fetcher.fetch(catalog.ra[:2], catalog.dec[:2])["image"]
    fetcher.close()
    np.testing.assert_array_equal(fetcher.fetch(catalog.ra[:2], catalog.dec[:2])["image"], first)
    fetcher.close()


def test_the_constructor_reads_nothing() -> None:
    fetcher = LsstDataFetcher("nowhere", collections="dp2", bands="g", size=8)
    with pytest.raises(FileNotFoundError, match="no Butler repository 'nowhere'"):
        fetcher.fetch(1.0, 2.0)


def test_bad_input(dp2_repo: SimulatedRepository) -> None:
    with fetcher_of(dp2_repo) as fetcher:
        with pytest.raises(CatalogError):
            fetcher.fetch([53.0, np.nan], [-27.0, -27.0])
        with pytest.raises(CoverageError):
            fetcher.fetch(180.0, 45.0)
        with pytest.raises(CatalogError):
            fetcher.fetch([53.0, 53.1], [-27.0])
    with pytest.raises(ConfigurationError, match="threads"):
        fetcher_of(dp2_repo, threads=0)


def test_positions_keep_their_units_and_masks(dp2_repo: SimulatedRepository) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    ra, dec = catalog.ra[:2], catalog.dec[:2]
    with fetcher_of(dp2_repo) as fetcher:
        plain = fetcher.fetch(ra, dec)
        hours = fetcher.fetch((ra * units.deg).to(units.hourangle), (dec * units.deg).to(units.rad))
        np.testing.assert_array_equal(hours["image"], plain["image"])
        with pytest.raises(CatalogError):
            fetcher.fetch(ra * units.m, dec * units.m)
        with pytest.raises(CatalogError):
            fetcher.fetch(np.ma.masked_array(ra, [True, False]), dec)
        with pytest.raises(CatalogError):
            fetcher.fetch(["53.0"], ["-27.0"])


def test_a_plan_of_other_cutouts_is_refused(dp2_repo: SimulatedRepository) -> None:
    with fetcher_of(dp2_repo) as fetcher:
        for changes in ({"bands": "gr"}, {"size": 41}):
            arguments = {"collections": "dp2", "bands": "gri", "size": 40, **changes}
            with pytest.raises(PlanError, match="this fetcher is for"):
                fetcher.fetch_plan(build_plan(dp2_repo.root, dp2_repo.truth, **arguments))


def test_a_batch_beyond_the_memory_is_refused(dp2_repo: SimulatedRepository) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    refused = pytest.raises(MemoryBudgetError, match=r"rows=.*CutoutDataset")
    with fetcher_of(dp2_repo, size=30_000) as fetcher, refused:
        fetcher.fetch(catalog.ra, catalog.dec)


def in_a_fork(function) -> bytes:
    """Return what a function gives in a forked process, which has none of this one's threads."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.write(write, function())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pipe.read()
    assert os.waitpid(process, 0)[1] == 0
    return result


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.timeout(60)
def test_a_fetcher_serves_after_a_fork_and_after_pickling(dp2_repo: SimulatedRepository) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    with fetcher_of(dp2_repo) as fetcher:
        first = fetcher.fetch(catalog.ra[:4], catalog.dec[:4])["image"]
        forked = in_a_fork(lambda: hashlib.sha256(fetcher.fetch(catalog.ra[:4], catalog.dec[:4])["image"]).digest())
        assert forked == hashlib.sha256(first).digest()
        with pickle.loads(pickle.dumps(fetcher)) as copy:
            np.testing.assert_array_equal(copy.fetch(catalog.ra[:4], catalog.dec[:4])["image"], first)


def test_a_refused_band_leaves_no_repository_open(dp2_repo: SimulatedRepository) -> None:
    with fetcher_of(dp2_repo, bands="gx") as fetcher:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="no band 'x'"):
                fetcher.fetch(53.0, -27.5)
        assert fetcher._planner is None


def test_mask_planes_in_either_spelling_and_no_other(
    dp2_repo: SimulatedRepository, dp1_repo: SimulatedRepository
) -> None:
    for repo in (dp2_repo, dp1_repo):
        masks = []
        old = ("SAT", "INTRP", "CR", "EDGE", "NO_DATA")
        new = ("SATURATED", "INTERPOLATED", "COSMIC_RAY", "DETECTION_EDGE", "NO_DATA")
        for names in (old, new):
            with fetcher_of(repo, planes=("mask",), read=ReadOptions(mask_planes=names)) as fetcher:
                masks.append(fetcher.fetch_plan(fetcher.plan(repo.truth))["mask"])
        np.testing.assert_array_equal(*masks)
        assert (masks[0] & 0b1111).any()
        with (
            fetcher_of(repo, planes=("mask",), read=ReadOptions(mask_planes=("SATURATD",))) as fetcher,
            pytest.raises(PlaneError, match=r"no mask plane 'SATURATD' \(did you mean 'SATURATED'\?\); available: "),
        ):
            fetcher.fetch_plan(fetcher.plan(repo.truth), [0, 1, 2])


def test_a_batch_is_written_and_read_back(dp2_repo: SimulatedRepository, tmp_path: Path) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    with fetcher_of(
        dp2_repo, planes=("image", "mask", "psf"), size=(20, 31), read=ReadOptions(mask_planes=("SAT", "NO_DATA"))
    ) as fetcher:
        batch = fetcher.fetch(catalog.ra[:3], catalog.dec[:3], object_id=catalog.object_id[:3])
        paths = fetcher.write_fits(batch, tmp_path / "out")
    assert len(paths) == 3
    for i, path in enumerate(paths):
        with fits.open(path) as hdus:
            for b, band in enumerate("GRI"):
                np.testing.assert_array_equal(hdus[f"IMAGE_{band}"].data, batch["image"][i, b])
                assert hdus[f"MASK_{band}"].header["MP_NO_DATA"] == 1
            mine = batch_wcs(batch, i).all_pix2world([[3.0, 5.0]], 0)
            there = WCS(hdus["IMAGE_R"].header).all_pix2world([[3.0, 5.0]], 0)
        np.testing.assert_allclose(mine, there, rtol=0, atol=1e-12)


def test_sizes_on_the_sky(dp2_repo: SimulatedRepository) -> None:
    catalog = Catalog.from_any(dp2_repo.truth)
    with fetcher_of(dp2_repo, size=("4 arcsec", "6.2 arcsec")) as fetcher:
        assert fetcher.fetch(catalog.ra[:2], catalog.dec[:2])["image"].shape == (2, 3, 20, 31)


def test_memory_is_reserved_for_one_batch_and_for_none_after_closing(dp2_repo: SimulatedRepository) -> None:
    with LsstDataFetcher(dp2_repo.root, collections="dp2", bands="gri", size=100, cache_bytes="20 MB") as fetcher:
        plan = fetcher.plan(dp2_repo.truth)
        for _ in range(30):
            nbytes = fetcher.fetch_plan(plan)["image"].nbytes
            assert fetcher.cache_info().reserved == nbytes + fetcher._files.nbytes
        assert fetcher.cache_info().entries > 0
    gc.collect()
    assert fetcher.cache_info().reserved == fetcher._files.nbytes
    fetcher.refresh()
    assert fetcher.cache_info().reserved == fetcher._files.nbytes == 0


def hold(batch: dict) -> list[tuple[str, object]]:
    """Return what people keep of a batch: all of it, and one thing of it."""
    image = batch["image"]
    return [
        ("batch", batch),
        ("plane", image),
        ("view", image[3:, 1, 4:9, ::2]),
        ("row", next(iter(image))),
        ("flat", image.reshape(-1).view(np.int32)),
        ("bytes", memoryview(image)),
        ("buffer", np.frombuffer(image, np.float32)),
        ("tensor", torch.from_numpy(image)),
        ("tensor's view", torch.from_numpy(image)[2:].flatten(1)),
        ("dlpack", torch.utils.dlpack.from_dlpack(image)),
        ("tensor's array", torch.from_numpy(image)[1].numpy()),
        ("other plane", batch["valid"]),
    ]


def content(kept: object) -> bytes:
    return np.asarray(kept["image"] if isinstance(kept, dict) else kept).tobytes()


@pytest.mark.parametrize("size", [32, 100])  # large arrays are used again
def test_a_batch_that_somebody_refers_to_is_never_overwritten(dp2_repo: SimulatedRepository, size: int) -> None:
    with fetcher_of(dp2_repo, size=size, planes=("image", "valid", "psf"), cache_bytes="200 MB") as fetcher:
        plan = fetcher.plan(dp2_repo.truth)
        first, second = np.arange(len(plan) // 2), np.arange(len(plan) // 2) + len(plan) // 2
        with fetcher_of(dp2_repo, size=size, planes=("image", "valid", "psf")) as other:
            wanted = {name: other.fetch_plan(plan, second)[name] for name in ("image", "valid", "psf")}
        held, places = [], set()
        for name in [name for name, _ in hold(fetcher.fetch_plan(plan, first))]:
            batch = fetcher.fetch_plan(plan, first)
            kept = dict(hold(batch))[name]
            del batch
            held.append((name, kept, content(kept)))
            for _ in range(3):  # nobody keeps these, so that they share memory
                again = fetcher.fetch_plan(plan, second)
                places.add(again["image"].ctypes.data)
                for plane, pixels in wanted.items():
                    np.testing.assert_array_equal(again[plane], pixels)
                again["image"].fill(np.nan), again["valid"].fill(True), again["psf"].fill(np.nan)
                del again
        for name, kept, before in held:
            assert content(kept) == before, name
        assert len(places) < 2 * len(held)
        if size == 100:
            place = fetcher.fetch_plan(plan, second)["image"].ctypes.data
            assert fetcher.fetch_plan(plan, second)["image"].ctypes.data == place


def test_threads_that_hand_batches_on_do_not_meet(dp2_repo: SimulatedRepository) -> None:
    handed: queue.SimpleQueue = queue.SimpleQueue()
    with fetcher_of(dp2_repo, size=64) as fetcher:
        plan = fetcher.plan(dp2_repo.truth)
        alone = fetcher.fetch_plan(plan)["image"].copy()

        def fetch(number: int) -> None:
            rng = np.random.default_rng(number)
            for _ in range(25):
                rows = rng.choice(len(plan), int(rng.integers(1, len(plan))), replace=False)
                handed.put((rows, fetcher.fetch_plan(plan, rows)["image"][:, :, 3:]))
            handed.put(None)

        with ThreadPoolExecutor(3) as pool:
            running = [pool.submit(fetch, number) for number in range(3)]
            for _ in range(3):
                while (one := handed.get(timeout=60)) is not None:
                    np.testing.assert_array_equal(one[1], alone[one[0], :, 3:])
                    one[1].fill(np.nan)  # it is the user's
            for each in running:
                each.result()


def test_few_bytes_wait_for_the_next_fetch(dp2_repo: SimulatedRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsstcutouts.read.fetcher._MOST_IDLE", 5_000_000)
    with fetcher_of(dp2_repo, size=100) as fetcher:
        plan = fetcher.plan(dp2_repo.truth)
        kept = [fetcher.fetch_plan(plan, range(n))["image"] for n in (60, 30, 10, 10, 10)]  # 7.2, 3.6, 1.2 MB
        del kept
        assert fetcher.cache_info().reserved <= 5_000_000
