"""Files that cannot be read, wholly or in part: what is lost, what is said, and that every row is accounted for."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts.errors import AuthenticationError, CorruptFileError, MissingFileError, QualityError, ReadError
from lsstcutouts.fits.coadd import open_coadd
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.plan.planner import build_plan
from lsstcutouts.plan.quality import Outcome, Quality, QualityPolicy
from lsstcutouts.read.cache.tile_cache import TileCache
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.read.reader import CutoutReader
from lsstcutouts.read.report import Report
from lsstcutouts.sky.geometry import YX, Box
from lsstcutouts.source.web.answers import AnswerError
from lsstcutouts.source.web.process import forget_bytes
from lsstcutouts.testing import SimulatedRepository, SimulationConfig

from ..support.delivery import SIZE, deliver, plan_of
from ..support.examples import examples
from ..support.faulty import copied, file_of, spoil_tile
from ..support.repositories import simulated_copy
from ..support.server import FileServer, Handler, serving


@pytest.fixture(scope="module", params=["dp2_repo", "dp1_repo"])
def repo(request: pytest.FixtureRequest) -> SimulatedRepository:
    return request.getfixturevalue(request.param)


@pytest.fixture
def broken(repo: SimulatedRepository, tmp_path: Path) -> SimulatedRepository:
    return copied(repo, tmp_path)


def test_one_damaged_tile_loses_its_own_pixels(broken: SimulatedRepository) -> None:
    """The mask is GZIP_2 in both releases; there a damaged tile is always noticed."""
    plan = plan_of(broken, size=(70, 90))
    good = deliver(plan, planes=("image", "variance", "valid")).batch
    tile = 5 if broken.release == "dp2" else 120
    gone = spoil_tile(file_of(broken, 9, "r"), "mask", tile)
    with pytest.raises(CorruptFileError, match=rf"mask plane: tile {tile}.*patch 9, band r of '{broken.root}'"):
        deliver(plan, planes=("image", "variance", "valid"))
    delivery = deliver(plan, planes=("image", "variance", "valid"), on_read_error="mask")
    batch, touched = delivery.batch, 0
    for n in range(len(plan)):
        lost = np.zeros((3, 70, 90), bool)
        box = Box.from_start(YX(*plan.yx0[n].tolist()), plan.size)
        if plan.patch[n] == 9 and not (piece := box.intersection(gone)).is_empty:
            lost[1][piece.slices(box.start)] = True
        if plan.patch[n] == 9:
            touched += lost.any()
            np.testing.assert_array_equal(batch["valid"][n], good["valid"][n] & ~lost)
            np.testing.assert_array_equal(batch["image"][n], np.where(lost, 0, good["image"][n]))
            np.testing.assert_array_equal(batch["variance"][n], np.where(lost, 0, good["variance"][n]))
            assert ((batch["quality"][n] & Quality.READ_ERROR) != 0).tolist() == [False, lost.any(), False]
    assert touched
    np.testing.assert_array_equal(batch["band_present"], good["band_present"])
    kinds = {(f.plane, f.patch, f.band, f.kind) for f, _ in delivery.batch_report.failures}
    assert kinds == {("mask", 9, "r", "CorruptFileError")}
    rows = set().union(*(rows for _, rows in delivery.batch_report.failures))
    assert rows == set(np.flatnonzero((batch["quality"] & Quality.READ_ERROR).any(axis=1)).tolist())


def test_a_damaged_row_of_a_strip_costs_that_row(dp1_repo: SimulatedRepository, tmp_path: Path) -> None:
    """DP1 keeps many one-row tiles in one unit of the cache: the others of the unit survive."""
    repo = copied(dp1_repo, tmp_path)
    plan = plan_of(repo)
    good = deliver(plan, planes=("image",)).batch
    gone = spoil_tile(file_of(repo, 13, "i"), "image", 100)
    assert gone.shape.y == 1
    batch = deliver(plan, planes=("image",), on_read_error="mask").batch
    hit = np.flatnonzero((batch["quality"][:, 2] & Quality.READ_ERROR) != 0)
    assert len(hit)
    for n in hit:
        different = batch["image"][n] != good["image"][n]
        rows = np.unique(np.argwhere(different)[:, 1])
        assert not different[:2].any()
        assert rows.tolist() in ([], [gone.y0 - plan.yx0[n, 0]])


def test_a_vanished_file_loses_its_pixels_and_no_others(broken: SimulatedRepository) -> None:
    plan = plan_of(broken)
    good = deliver(plan, planes=("image", "valid")).batch
    path = file_of(broken, 9, "r")
    path.unlink()
    with pytest.raises(MissingFileError, match=r"patch 9, band r"):
        deliver(plan)
    delivery = deliver(plan, planes=("image", "valid"), on_read_error="mask")
    batch = delivery.batch
    inside = (plan.patch == 9) & ((batch["quality"][:, 1] & Quality.PARTLY_COVERED) == 0)
    assert inside.any()
    # A band that cannot be read is never told as a band that is absent.
    assert batch["band_present"][inside, 1].all()
    assert not (batch["quality"][:, 1] & Quality.BAND_ABSENT).any()
    assert not batch["valid"][inside, 1].any()
    assert (batch["quality"][inside, 1] & Quality.READ_ERROR).all()
    np.testing.assert_array_equal(batch["image"][:, [0, 2]], good["image"][:, [0, 2]])
    untouched = (batch["quality"][:, 1] & Quality.READ_ERROR) == 0
    np.testing.assert_array_equal(batch["image"][untouched], good["image"][untouched])
    ((failure, rows),) = delivery.batch_report.failures
    assert (failure.uri, failure.kind, failure.plane) == (str(path), "MissingFileError", "")
    assert set(rows) == set(np.flatnonzero(~untouched).tolist())


def test_skip_leaves_out_what_cannot_be_read(broken: SimulatedRepository) -> None:
    plan = plan_of(broken)
    file_of(broken, 9, "r").unlink()
    masked = deliver(plan, on_read_error="mask").batch
    lost = (masked["quality"] & Quality.READ_ERROR).any(axis=1)
    delivery = deliver(plan, on_read_error="skip")
    np.testing.assert_array_equal(delivery.batch_report.outcome == Outcome.READ_ERROR, lost)
    np.testing.assert_array_equal(delivery.batch["object_id"], plan.object_id[~lost])


def test_a_file_that_cannot_be_read_is_missing_to_no_band_policy(broken: SimulatedRepository) -> None:
    plan = plan_of(broken, bands="ri")
    file_of(broken, 9, "r").unlink()
    batch = deliver(plan, planes=("image",), missing_band="nan", on_read_error="mask").batch
    lost = (batch["quality"] & Quality.READ_ERROR) != 0
    absent = (batch["quality"] & Quality.BAND_ABSENT) != 0
    assert lost.any()
    assert not (lost & absent).any()
    assert not np.isnan(batch["image"][lost]).any()
    outcome = deliver(plan, required_bands=("r",), on_read_error="mask").batch_report.outcome
    assert (outcome[lost.any(axis=1)] == Outcome.DELIVERED).all()


class ExpiringServer(FileServer):
    """Signed URLs that are good for a while."""

    status = 0

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.RequestHandlerClass = ExpiringHandler


class ExpiringHandler(Handler):
    server: ExpiringServer

    def _serve(self, body: bool) -> None:
        if self.server.status and "/9/r/" in self.path:
            return self._answer(self.server.status)
        return super()._serve(body)


@pytest.mark.parametrize(("policy", "status"), [("raise", 403), ("mask", 401), ("mask", 403), ("skip", 403)])
@pytest.mark.parametrize("when", ["before it is opened", "while it is read"])
def test_forbidden_files_are_never_missing(dp2_repo: SimulatedRepository, policy: str, status: int, when: str) -> None:
    plan = plan_of(dp2_repo)
    mine = np.flatnonzero(plan.patch == 9)
    good = deliver(plan, mine).batch["image"]
    with serving(dp2_repo.root, ExpiringServer) as server:
        uris = tuple(f"{server.url}/{Path(uri).relative_to(dp2_repo.root)}" for uri in plan.files.uri)
        assert any("/9/r/" in uri for uri in uris)
        files = type(plan.files)(uris, plan.files.size, plan.files.dataset_id)
        remote = CutoutPlan(**{**plan.__dict__, "files": files})
        reader = CutoutReader(remote, ReaderOptions(on_read_error=policy), cache=TileCache("100 MB"))
        if when == "while it is read":
            np.testing.assert_array_equal(reader.read(mine)["image"], good)
            reader.cache.clear()
            forget_bytes()
        server.status = status
        with pytest.raises(AuthenticationError, match=rf"/9/r/.*127.0.0.1.* answers {status}") as caught:
            reader.read(mine)
        assert not isinstance(caught.value, MissingFileError | ReadError)
        assert isinstance(caught.value.__cause__, AnswerError)
        server.status = 404
        if policy == "raise":
            with pytest.raises(MissingFileError, match=r"/9/r/.*404 Not Found"):
                reader.read(mine)
        else:
            batch_report = reader.deliver(mine).batch_report
            assert {failure.kind for failure, _ in batch_report.failures} == {"MissingFileError"}
            assert (batch_report.quality[:, 1] & Quality.READ_ERROR).all()
            assert not (batch_report.quality & Quality.BAND_ABSENT).any()
        reader.close()


@pytest.mark.parametrize("fill", [0.0, float("nan"), "noise"])
def test_lost_pixels_are_filled_as_pixels_without_a_value(broken: SimulatedRepository, fill) -> None:
    plan = plan_of(broken, size=(70, 90))
    good = deliver(plan, planes=("image", "valid")).batch
    spoil_tile(file_of(broken, 9, "r"), "mask", 5 if broken.release == "dp2" else 120)
    planes = ("image", "valid")
    zero = deliver(plan, planes=planes, on_read_error="mask").batch
    batch = deliver(plan, planes=planes, on_read_error="mask", fill=fill).batch
    lost = good["valid"] & ~zero["valid"]
    assert lost.any()
    np.testing.assert_array_equal(batch["valid"], zero["valid"])
    np.testing.assert_array_equal(batch["image"][batch["valid"]], good["image"][batch["valid"]])
    if fill == "noise":
        assert np.isfinite(batch["image"]).all()
        assert (batch["image"][lost] != 0).mean() > 0.99
    else:
        np.testing.assert_array_equal(batch["image"][lost], np.full(np.count_nonzero(lost), fill, np.float32))


@pytest.mark.parametrize("patch", [8, 9, 13, 14])
def test_a_box_of_several_files_may_lose_one_where_only_the_psf_is_asked_for(
    dp2_repo: SimulatedRepository, tmp_path: Path, patch: int
) -> None:
    repo = copied(dp2_repo, tmp_path)
    plan = plan_of(repo, size=(90, 290), bands="r")
    good = deliver(plan, planes=("psf",)).batch
    file_of(repo, patch, "r").unlink()
    delivery = deliver(plan, planes=("psf",), on_read_error="mask")
    unread = (delivery.batch_report.quality[:, 0] & Quality.READ_ERROR) != 0
    assert unread.any()
    assert {n for _, rows in delivery.batch_report.failures for n in rows} == set(np.flatnonzero(unread).tolist())
    there = delivery.batch["psf_present"]
    np.testing.assert_array_equal(delivery.batch["psf"][there], good["psf"][there])
    np.testing.assert_array_equal(there[~unread], good["psf_present"][~unread])


def test_tiles_that_a_box_takes_from_another_file_are_not_read(tmp_path: Path) -> None:
    """Cells of 150 pixels are a unit of the cache each, as in DP2."""
    settings = {"cells": (2, 2), "cell": (150, 150), "grid": (2, 3), "patches": 2, "bands": "r", "targets": 30}
    repo = simulated_copy(tmp_path / "repo", SimulationConfig(release="dp2", **settings, seed=3))
    plan = plan_of(repo, size=(50, 420), bands="r")
    rows = np.flatnonzero(plan.patch == 2)
    torn = [row for row in rows if 1 in plan.patches.patch[plan.others_of(row)]]
    assert torn
    good = deliver(plan, rows, planes=("image", "valid")).batch
    path = file_of(repo, 1, "r")
    with open_coadd(path) as neighbour, open_coadd(file_of(repo, 2, "r")) as primary:
        layout = neighbour.layout("mask")
        places = [divmod(tile, layout.tile_grid.x) for tile in range(len(layout.offsets))]
        boxes = [layout.pixels_of(Box(y, y + 1, x, x + 1)).shifted(neighbour.bbox.start) for y, x in places]
        shared = [tile for tile, box in enumerate(boxes) if primary.bbox.contains(box)]
    for tile in shared:
        spoil_tile(path, "mask", tile)
    batch = deliver(plan, rows, planes=("image", "valid")).batch
    np.testing.assert_array_equal(batch["image"], good["image"])
    np.testing.assert_array_equal(batch["valid"], good["valid"])


def test_a_target_that_is_left_out_anyway_does_not_raise_for_its_quality(broken: SimulatedRepository) -> None:
    plan = plan_of(broken, bands="r")
    policy = QualityPolicy(min_valid=0.1, action="raise")
    deliver(plan, quality=policy)
    file_of(broken, 9, "r").unlink()
    with pytest.raises(QualityError, match=r"r: FEW_VALID"):
        deliver(plan, quality=policy, on_read_error="mask")
    outcome = deliver(plan, quality=policy, on_read_error="skip").batch_report.outcome
    assert set(outcome.tolist()) == {Outcome.DELIVERED, Outcome.READ_ERROR}


def test_padding_holds_no_nan(broken: SimulatedRepository) -> None:
    plan = plan_of(broken, bands="r")
    rows = np.flatnonzero(plan.patch == 9)
    file_of(broken, 9, "r").unlink()
    batch = deliver(plan, rows, pad=True, planes=("image", "variance"), on_read_error="skip", fill=np.nan).batch
    assert batch["is_padding"].tolist() == [True]
    assert np.isfinite(batch["image"]).all()
    assert np.isfinite(batch["variance"]).all()


@examples(10)
@given(
    faults=st.lists(
        st.tuples(st.sampled_from([8, 9, 13, 14]), st.sampled_from("gri"), st.sampled_from(["gone", "cut", "tile"])),
        max_size=4,
        unique_by=lambda f: f[:2],
    ),
    policy=st.sampled_from([None, QualityPolicy(min_valid=0.8, action="skip"), QualityPolicy(min_valid=0.8)]),
    missing_band=st.sampled_from(["zero", "nan", "skip"]),
    on_read_error=st.sampled_from(["mask", "skip"]),
    min_bands=st.integers(0, 3),
)
def test_every_row_is_accounted_for(
    dp1_repo: SimulatedRepository,
    tmp_path_factory: pytest.TempPathFactory,
    faults,
    missing_band,
    on_read_error,
    min_bands,
    policy,
) -> None:
    repo = copied(dp1_repo, tmp_path_factory.mktemp("faults"))
    plan = build_plan(repo.root, repo.truth, collections=repo.collections, bands="gri", size=SIZE)
    good = deliver(plan, planes=("image", "valid")).batch
    spoilt = set()
    for patch, band, kind in faults:
        if (patch, band) in repo.missing:
            continue
        path = file_of(repo, patch, band)
        spoilt.add(str(path))
        if kind == "gone":
            path.unlink()
        elif kind == "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            spoil_tile(path, "image", 60)
    options = ReaderOptions(
        planes=("image", "valid"),
        missing_band=missing_band,
        on_read_error=on_read_error,
        min_bands=min_bands,
        quality=policy,
    )
    reader, report, ids = CutoutReader(plan, options, cache=TileCache("100 MB")), Report(plan), []
    for low in range(0, len(plan), 16):
        delivery = reader.deliver(np.arange(low, min(low + 16, len(plan))), pad=True)
        report.add(delivery.batch_report)
        batch = delivery.batch
        ids += batch["object_id"][~batch["is_padding"]].tolist()
        rows = np.searchsorted(plan.object_id, batch["object_id"])
        unread = (batch["quality"] & Quality.READ_ERROR) != 0
        np.testing.assert_array_equal(batch["image"][batch["valid"]], good["image"][rows][batch["valid"]])
        np.testing.assert_array_equal(batch["valid"][~unread], good["valid"][rows][~unread])
    reader.close()
    assert len(report) == len(plan) + len(plan.rejected) == sum(report.counts().values())
    assert Outcome.NOT_READ not in report.counts()
    assert sorted(ids) == sorted(report.object_id[report.outcome == Outcome.DELIVERED].tolist())
    assert len(ids) == report.delivered
    assert {f.uri for f in report.failures} <= spoilt
    lost = ((report.quality & Quality.READ_ERROR) != 0).any(axis=1)
    assert bool(report.failures) == lost.any()
    assert (report.outcome[lost] == Outcome.READ_ERROR).all() or on_read_error == "mask"
