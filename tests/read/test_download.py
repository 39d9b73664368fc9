"""Estimates of downloads against the counters of the platform."""

from pathlib import Path

import pytest

from lsstcutouts import ReadOptions
from lsstcutouts.read.download import Download, Link, estimate_download, held_bytes, measure_link
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.source.disk.cache_settings import FOLDER_VARIABLE
from lsstcutouts.source.web.process import forget_bytes

from ..support.platform.science_platform import Platform
from ..support.remote import dataset_of, epoch, remote_plan


@pytest.mark.parametrize(
    ("release", "planes"),
    [("dp2", ("image",)), ("dp2", ("image", "variance", "psf")), ("dp1", ("image", "mask"))],
)
def test_an_epoch_downloads_what_was_estimated(
    platform: Platform, release: str, planes: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("NO_DATA",) if "mask" in planes else ()
    plan = remote_plan(platform.published(release))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "estimate"))
    before, _ = estimate_download(plan, ReaderOptions(planes=planes, mask_planes=names))
    assert platform.counters().data_bytes < before.bytes / 2
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "epoch"))
    forget_bytes()
    platform.reset()
    epoch(dataset_of(plan, planes=planes, read=ReadOptions(mask_planes=names)))
    counted = platform.counters()
    assert before.bytes == pytest.approx(counted.data_bytes, rel=0.15)
    assert len(plan.files) < before.requests <= counted.data_requests
    assert (before.files, before.signatures, counted.signatures) == (10, 10, 10)
    assert before.file_bytes == sum(plan.files.size)
    assert before.needed_bytes == before.bytes
    after, _ = estimate_download(plan, ReaderOptions(planes=planes, mask_planes=names))
    assert (after.bytes, after.requests, after.signatures) == (0, 0, 0)
    assert after.cached_bytes == after.needed_bytes
    assert (
        0.98 * counted.data_bytes < held_bytes(plan).sum() <= counted.data_bytes
    )  # without what lies between near tiles


def test_the_link_is_measured_with_bytes_that_are_needed(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = remote_plan(platform.published("dp1"))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    platform.set(rate=2e6, rtt=0.05)
    download, samples = estimate_download(plan, ReaderOptions())
    assert sorted(plan.patches.row_and_band[file, 1] for file in samples) == [0, 1, 2]
    link = measure_link(plan, samples)
    assert 1e6 < link.rate < 2.5e6
    assert 0.05 <= link.latency < 0.1
    assert platform.counters().data_bytes < 4_300_000
    assert held_bytes(plan).sum() == platform.counters().data_bytes
    assert download.seconds(link) == pytest.approx(download.bytes / link.rate)
    forget_bytes()
    platform.set(away=1000)
    assert measure_link(plan, samples) == Link(0.0, 0.0)


def test_the_time_is_that_of_the_bytes_or_of_the_requests() -> None:
    download = Download(10, 10**9, 10**8, 0, 10**8, 4800, 160)
    assert download.seconds(Link(1e6, 0.001)) == 100
    assert download.seconds(Link(1e9, 0.1)) == pytest.approx(0.1 * (4800 / 48 + 160 / 16))
    assert download.seconds(Link(0.0, 0.0)) == 0
