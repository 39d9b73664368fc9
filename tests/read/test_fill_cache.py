"""Filling the disk cache: what an epoch reads is there afterwards, or an error says why not."""

from dataclasses import replace
from pathlib import Path

import pytest

from lsstcutouts import ReadOptions
from lsstcutouts.errors import AccessDeniedError, AuthenticationError, ConfigurationError, WriteError
from lsstcutouts.read.fill_cache import FillProgress, _Speed, fill_cache
from lsstcutouts.read.options import ReaderOptions
from lsstcutouts.source.disk.cache_settings import BUDGET_VARIABLE, FOLDER_VARIABLE
from lsstcutouts.source.disk.disk_cache import DiskCache
from lsstcutouts.source.web.process import WebFigures, forget_bytes, web_of_process

from ..support.platform.science_platform import Platform, Published
from ..support.remote import dataset_of, epoch, local_plan, remote_plan, same


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))


def is_read_offline(platform: Platform, remote: Published, *, revoked: bool = False, **changes: object) -> bool:
    """Read an epoch without network, or without a token, and compare it with the files on disk."""
    plan = remote_plan(remote)  # nothing of it is in memory
    platform.reset()
    platform.set(token_revoked=revoked, away=0.0 if revoked else 1000.0)
    before = web_of_process().figures
    found = epoch(dataset_of(plan, **changes))
    assert web_of_process().figures.requests == before.requests
    assert (platform.counters().data_requests, platform.counters().api_requests) == (0, 0)
    platform.reset()
    return same(found, epoch(dataset_of(local_plan(remote.root, remote.collections, remote.local.truth), **changes)))


@pytest.mark.parametrize(
    ("release", "planes", "revoked"),
    [("dp2", ("image", "variance", "psf"), False), ("dp1", ("image", "valid"), True)],
)
def test_afterwards_neither_network_nor_token_is_needed(
    platform: Platform, release: str, planes: tuple[str, ...], revoked: bool
) -> None:
    remote, seen = platform.published(release), list[FillProgress]()
    plan = remote_plan(remote)
    platform.reset()
    result = fill_cache(plan, ReaderOptions(planes=planes), 2, seen.append)
    counted = platform.counters()
    assert (result.bytes, result.requests) == (counted.data_bytes, counted.data_requests)
    assert (result.signatures, result.files, result.targets, result.unread) == (10, 10, len(plan), 0)
    last = seen[-1]
    assert (last.targets, last.bytes, last.all_bytes) == (len(plan), result.bytes, result.bytes)
    assert all(one.targets <= one.all_targets and one.bytes <= one.all_bytes for one in seen)
    assert is_read_offline(platform, remote, revoked=revoked, planes=planes)
    again = fill_cache(remote_plan(remote), ReaderOptions(planes=planes))
    assert (again.bytes, again.requests, again.signatures) == (0, 0, 0)


def test_a_lost_network_is_waited_for(platform: Platform, remote_dp2: Published) -> None:
    plan, seen = remote_plan(remote_dp2), list[FillProgress]()
    platform.set(rate=1e6)

    def progress(now: FillProgress) -> None:
        if now.bytes > 200_000 and not any(one.bytes > 200_000 for one in seen):
            platform.set(away=0.5)
        seen.append(now)

    fill_cache(plan, progress=progress)
    assert any(one.web.waiting_for.startswith("http://127.0.0.1:") for one in seen)
    assert is_read_offline(platform, remote_dp2)


def test_another_call_continues_after_an_error(platform: Platform, remote_dp2: Published) -> None:
    platform.set(token_revoked=True)
    with pytest.raises(AuthenticationError):
        fill_cache(remote_plan(remote_dp2))
    platform.reset()
    assert fill_cache(remote_plan(remote_dp2)).bytes > 0
    assert is_read_offline(platform, remote_dp2)


def test_what_pushes_out_its_own_bytes_is_fetched_again(
    platform: Platform, remote_dp2: Published, remote_dp1: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest segments hold a part of the plan, and are removed while the rest is fetched."""
    monkeypatch.setenv(BUDGET_VARIABLE, "8 MB")
    fill_cache(remote_plan(remote_dp1))
    fill_cache(remote_plan(remote_dp2), ReaderOptions(planes=("image", "variance")))
    fill_cache(remote_plan(remote_dp1))
    assert DiskCache.of_process().figures().bytes <= 9_000_000
    assert is_read_offline(platform, remote_dp1)


def test_files_that_are_gone(platform: Platform, remote_dp2: Published) -> None:
    fill_cache(remote_plan(remote_dp2))
    gone = platform.log("data")[-1].path
    platform.set(deleted=gone)
    plan = remote_plan(remote_dp2)
    with pytest.raises(AccessDeniedError, match=r"tract 5063, patch .* on_read_error"):
        fill_cache(plan, ReaderOptions(planes=("variance",)))
    result = fill_cache(remote_plan(remote_dp2), ReaderOptions(planes=("variance",), on_read_error="mask"))
    assert result.bytes > 0


def test_what_cannot_be_filled(
    platform: Platform, remote_dp2: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = remote_plan(remote_dp2)
    local = local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)
    with pytest.raises(ConfigurationError, match="are on this machine"):
        fill_cache(local)
    with pytest.raises(ConfigurationError, match="threads must be an integer >= 1, got 0"):
        fill_cache(plan, threads=0)
    monkeypatch.setenv(BUDGET_VARIABLE, "1 MB")
    platform.reset()
    with pytest.raises(
        ConfigurationError, match=r"needs about 3 MB, .* is 1 MB; set LSSTCUTOUTS_CACHE_BYTES to '3 MB'"
    ):
        fill_cache(plan, ReaderOptions(planes=("image", "variance")))
    assert platform.counters().data_bytes < 1_000_000
    monkeypatch.delenv(BUDGET_VARIABLE)
    monkeypatch.setenv(FOLDER_VARIABLE, "off")
    with pytest.raises(ConfigurationError, match="the disk cache is off; set LSSTCUTOUTS_CACHE"):
        fill_cache(plan)


def test_a_disk_that_takes_no_data(platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiskCache, "write", lambda *_: None)
    forget_bytes()
    with pytest.raises(WriteError, match="does not keep what is fetched; free disk space"):
        fill_cache(remote_plan(remote_dp2), ReaderOptions.of(ReadOptions()))
    assert platform.counters().data_bytes < 2_000_000


def test_what_the_bar_says() -> None:
    figures = WebFigures(9, 100, 1, 7, 0, 5e6, 0.05, "")
    speed = _Speed()
    assert speed.state(FillProgress(3, 80, 0, 10**6, figures)) == "0.0 MB/s, 7 connections, 3 of 80 targets"
    silent = replace(figures, waiting_for="https://butler.example.org (12 s)")
    assert speed.state(FillProgress(3, 80, 0, 10**6, silent)) == "waiting for https://butler.example.org (12 s)"
