"""An epoch over a Butler server equals the local repository, and takes few rounds of requests."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lsstcutouts import CutoutPlan, Grid, LsstDataFetcher, ReadOptions, build_plan, gallery
from lsstcutouts.source.web.process import forget_bytes, web_of_process
from lsstcutouts.source.web.rates import Rates

from ..support.platform.science_platform import Platform, Published
from ..support.platform.settings import Request
from ..support.remote import MASKED, dataset_of, epoch, local_plan, remote_plan, rounds, same

PLANES = {
    "dp2": ("image", "variance", "ivar", "mask", "valid", "psf"),
    "dp1": ("image", "variance", "ivar", "mask", "valid"),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("release", ["dp2", "dp1"])
def test_an_epoch_equals_the_local_repository(platform: Platform, tmp_path: Path, release: str, workers: int) -> None:
    remote = platform.published(release)
    plan = remote_plan(remote)
    plan.save(tmp_path / "plan.parquet")
    loaded = CutoutPlan.load(tmp_path / "plan.parquet")
    platform.reset()
    options = {"planes": PLANES[release], "read": MASKED}
    local = epoch(dataset_of(local_plan(remote.root, remote.collections, remote.local.truth), **options))
    assert same(epoch(dataset_of(loaded, **options), workers), local)
    assert platform.counters().signatures <= len(plan.files) * max(1, workers)


def test_a_second_epoch_of_one_dataset_equals_the_first(platform: Platform, remote_dp2: Published) -> None:
    """With tiles in memory, and with a cache of tiles that holds none of them."""
    local = epoch(dataset_of(local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)))
    for cache_bytes in ("100 MB", "1 MB"):
        dataset = dataset_of(remote_plan(remote_dp2), cache_bytes=cache_bytes)
        assert same(epoch(dataset), local)
        before = platform.counters().data_requests
        assert same(epoch(dataset), local)
        if cache_bytes == "100 MB":
            assert platform.counters().data_requests == before


def test_a_fetch_equals_the_local_repository(platform: Platform, remote_dp2: Published) -> None:
    plan = local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)
    with (
        LsstDataFetcher(remote_dp2.url, collections=remote_dp2.collections, bands="gri", size=32) as far,
        LsstDataFetcher(remote_dp2.root, collections=remote_dp2.collections, bands="gri", size=32) as near,
    ):
        got, expected = far.fetch(plan.ra, plan.dec), near.fetch(plan.ra, plan.dec)
        np.testing.assert_array_equal(got["image"], expected["image"])
        far.refresh()
        np.testing.assert_array_equal(far.fetch(plan.ra[:3], plan.dec[:3])["image"], expected["image"][:3])


def test_cutouts_on_your_own_grid_equal_the_local_repository(platform: Platform, remote_dp2: Published) -> None:
    read = ReadOptions(grid=Grid(north_up=True, pixel_scale=0.17))
    found = []
    for repo in (remote_dp2.url, str(remote_dp2.root)):
        plan = build_plan(
            repo, remote_dp2.local.truth, collections=remote_dp2.collections, bands="gri", size=32, read=read
        )
        found.append(epoch(dataset_of(plan, planes=("image", "variance", "valid"), read=read)))
    assert same(*found)


@pytest.mark.parametrize(
    ("planes", "most"), [(("image",), 3), (("image", "variance"), 4), (("image", "variance", "mask", "psf"), 4)]
)
def test_rounds_of_requests(platform: Platform, remote_dp2: Published, planes: tuple[str, ...], most: int) -> None:
    """Sign, index, tiles; one more for other planes. Where the files are known, the tiles only."""
    plan = remote_plan(remote_dp2)
    epoch(dataset_of(plan))  # connections and kernels are there, whatever ran before in this process
    read = MASKED if "mask" in planes else ReadOptions()
    with LsstDataFetcher(
        remote_dp2.url, collections=remote_dp2.collections, bands="gri", size=32, planes=planes, read=read
    ) as fetcher:
        far = np.flatnonzero(plan.patch == 9)
        some = far[np.linspace(0, len(far) - 1, 4).astype(int)]
        fetcher.plan({"ra": plan.ra, "dec": plan.dec})
        forget_bytes()
        known = {request.connection for request in platform.log("data")}
        platform.reset()
        platform.set(rtt=0.2, slow_start=False)
        web_of_process().rates = Rates()  # over a link that seemed slow before, fewer bytes would be asked for at once
        fetcher.fetch(plan.ra[some], plan.dec[some])
        assert rounds_of_files(platform, known) <= most - 1  # the first one signs, once for each file
        assert platform.counters().signatures == len({request.path for request in platform.log("data")})
        fetcher.cache.clear()
        forget_bytes()
        platform.reset()
        platform.set(rtt=0.2, slow_start=False)
        web_of_process().rates = Rates()  # over a link that seemed slow before, fewer bytes would be asked for at once
        fetcher.fetch(plan.ra[some], plan.dec[some])
        assert rounds_of_files(platform, known) == 1


def rounds_of_files(platform: Platform, known: set[int]) -> int:
    """Return how many rounds of requests for bytes the slowest file needed.

    A request on a connection that is not known, so a new one, was begun two round trips before the server saw it.
    """
    of_file: dict[str, list[Request]] = {}
    for request in platform.log("data"):
        if request.connection not in known:
            known.add(request.connection)
            begun = request.time - 2 * platform.settings.rtt
            whole = replace(request, time=begun, seconds=request.time + request.seconds - begun)
        else:
            whole = request
        of_file.setdefault(request.path, []).append(whole)
    return max(map(rounds, of_file.values()))


def test_connections_are_a_bound(platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    platform.set(rtt=0.2)
    epoch(dataset_of(remote_plan(remote_dp2), planes=("image", "variance")))
    assert 8 < platform.counters().peak_connections <= 64
    monkeypatch.setenv("LSSTCUTOUTS_CONNECTIONS", "8")
    platform.reset()
    plan = remote_plan(remote_dp2)
    epoch(dataset_of(plan, planes=("image", "variance")))
    assert platform.counters().peak_in_flight <= 8


def test_worker_processes_share_the_connections(
    platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_CONNECTIONS", "8")
    plan = remote_plan(remote_dp2)
    platform.reset()
    platform.set(rtt=0.02)
    epoch(dataset_of(plan, planes=("image", "variance")), workers=2)
    assert 2 <= len({request.connection for request in platform.log()}) <= 8


def test_every_request_names_the_package(platform: Platform, remote_dp2: Published) -> None:
    epoch(dataset_of(remote_plan(remote_dp2)))
    log = platform.log()
    ours = [one for one in log if one.port == "data" or one.path.endswith("/download")]
    assert ours
    assert {one.headers["user-agent"].partition("/")[0] for one in ours} == {"lsstcutouts"}


def test_a_gallery_equals_that_of_the_local_repository(remote_dp2: Published, tmp_path: Path) -> None:
    given = {"collections": remote_dp2.collections, "bands": "gri", "size": 20, "panels": "both", "progress": False}
    for name, repo in (("near", remote_dp2.root), ("far", remote_dp2.url)):
        result = gallery(remote_dp2.local.truth, tmp_path / f"{name}.html", repo=repo, title="one", **given)
        assert result.targets == 80
    assert (tmp_path / "near.html").read_bytes() == (tmp_path / "far.html").read_bytes()
