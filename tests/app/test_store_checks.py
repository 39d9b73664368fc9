"""The doctor on remote files: signatures that are refused, a slow or silent store, and the disk cache."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from lsstcutouts.app.doctor import Settings, store_checks
from lsstcutouts.app.doctor.store_checks import check_access, check_disk, check_store

from ..support.doctor import GB, one
from ..support.platform.science_platform import Platform, Published


def settings(repository: Published) -> Settings:
    return Settings(repo=repository.url, collections=repository.collections)


def test_the_server_signs_urls(remote_dp2: Published) -> None:
    result = one("access", settings(remote_dp2))
    assert result.status == "pass"
    assert result.detail == (
        "the server signs URLs of 127.0.0.1 (scope read:image), valid for 60 min and renewed before that"
    )


@pytest.mark.parametrize(
    ("change", "detail", "todo"),
    [
        ({"token_revoked": True}, "answers 401 Unauthorized (", "create a new token with the scope read:image"),
        ({"token_scope": True}, "answers 403 Forbidden (insufficient_scope): ", "else ask for access to the data"),
        (
            {"api_fault": "404"},
            "answers 404 Not Found (fault), instead of a URL of the file of tract",
            "try again later",
        ),
        ({"api_fault": "login"}, "answers 200 OK (Sign in), instead of a URL of the file of", "try again later"),
    ],
)
def test_signatures_that_are_refused(
    change: dict[str, Any], detail: str, todo: str, platform: Platform, remote_dp2: Published
) -> None:
    """Between opening the repository and asking for a signature, something happens."""
    with ExitStack() as stack:
        (good,) = check_access(settings(remote_dp2), stack)
        platform.set(**change)
        (result,) = check_access(settings(remote_dp2), stack)
    assert (good.status, result.status) == ("pass", "fail")
    assert detail in result.detail
    assert todo in result.todo


def test_the_store_is_measured_with_few_bytes(platform: Platform, remote_dp2: Published) -> None:
    with ExitStack() as stack:
        list(check_access(settings(remote_dp2), stack))
        platform.reset()
        platform.set(rtt=0.05)
        (result,) = check_store(settings(remote_dp2), stack)
    assert result.status == "pass"
    assert result.detail.startswith("127.0.0.1: 4.2 MB in ")
    assert "64 connections at most" in result.detail
    assert float(result.detail.partition("an answer takes ")[2].partition(" ms")[0]) >= 50
    assert 4_000_000 < platform.counters().data_bytes < 4_400_000


def test_a_slow_store_warns_in_time(platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_checks, "_MEASURED_SECONDS", 0.3)
    platform.set(rate=500_000.0)
    result = one("store", settings(remote_dp2))
    assert result.status == "warn"
    assert " MB in " in result.detail
    assert "lsstcutouts cache fill plan=plan.parquet" in result.todo
    assert platform.counters().data_bytes < 4_400_000


@pytest.mark.parametrize(
    ("fault", "detail"),
    [("hang", "no bytes of a file within 0 s"), ("login", "answers with a web page"), ("404", "404 Not Found")],
)
def test_a_store_without_answers_fails(
    fault: str, detail: str, platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_checks, "_FIRST_SECONDS", 0.4)
    platform.set(fault=fault)
    result = one("store", settings(remote_dp2))
    assert result.status == "fail"
    assert detail in result.detail
    assert "Signature" not in result.detail + result.todo
    assert "the files lie there, not on the Butler server" in result.todo


def disk(repository: Published) -> Any:
    with ExitStack() as stack:
        (result,) = check_disk(settings(repository), stack)
    return result


def test_the_disk_cache(remote_dp2: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new" / "cache"
    monkeypatch.setenv("LSSTCUTOUTS_CACHE", str(folder))
    monkeypatch.setenv("LSSTCUTOUTS_CACHE_BYTES", "3 GB")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * GB))
    result = disk(remote_dp2)
    assert result.status == "pass"
    assert result.detail == f"{folder}: 0 MB of at most 3.0 GB used, 5.0 GB free on its disk"
    assert not folder.exists()
    mounted = [SimpleNamespace(mountpoint=str(tmp_path), fstype="nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounted)
    assert "which is a network file system (nfs4): a quota can be smaller" in disk(remote_dp2).detail
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=GB))
    result = disk(remote_dp2)
    assert result.status == "warn"
    assert "1.0 GB free" in result.detail
    assert "less than the budget" in result.detail
    assert "LSSTCUTOUTS_CACHE_BYTES to less" in result.todo


@pytest.mark.parametrize(
    ("folder", "budget", "detail", "todo"),
    [
        ("off", "", "the disk cache is off", "set LSSTCUTOUTS_CACHE to a folder on a local disk"),
        ("cache", "0", "the disk cache is off", "unset LSSTCUTOUTS_CACHE_BYTES"),
        ("file", "", "cannot be written to; nothing is kept", "set LSSTCUTOUTS_CACHE to a folder on a local disk"),
    ],
)
def test_no_disk_cache_warns(
    folder: str,
    budget: str,
    detail: str,
    todo: str,
    remote_dp2: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LSSTCUTOUTS_CACHE", folder if folder == "off" else str(tmp_path / folder))
    monkeypatch.setenv("LSSTCUTOUTS_CACHE_BYTES", budget)
    result = disk(remote_dp2)
    assert result.status == "warn"
    assert detail in result.detail
    assert todo in result.todo


def test_a_budget_that_is_no_amount_fails(remote_dp2: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_CACHE_BYTES", "a lot")
    result = one("disk", settings(remote_dp2))
    assert result.status == "fail"
    assert "LSSTCUTOUTS_CACHE_BYTES='a lot' is not a number of bytes" in result.detail
