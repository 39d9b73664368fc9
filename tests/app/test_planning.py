"""The verb ``plan``: what it says of remote repositories, and nothing new of local ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from lsstcutouts.app.cli import main
from lsstcutouts.app.cli.planning import RemoteReading
from lsstcutouts.read.download import Download, Link
from lsstcutouts.source.disk.cache_settings import FOLDER_VARIABLE
from lsstcutouts.source.web.process import forget_bytes

from ..support.platform.science_platform import Platform, Published

GB = 10**9


def arguments(remote: Published, repo: object, *more: str) -> list[str]:
    where = [f"repo={repo}", f"collections={remote.collections}", f"catalog={remote.local.truth}"]
    return ["plan", *where, "bands=gri", "size=32", *more]


def planned(capsys: pytest.CaptureFixture[str], given: list[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*given, "json=true"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_remote_plan_says_what_is_downloaded(
    platform: Platform,
    remote_dp2: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    forget_bytes()
    platform.set(rate=2e6, rtt=0.02)
    assert main(arguments(remote_dp2, remote_dp2.url, f"output={tmp_path / 'plan.parquet'}")) == 0
    shown = capsys.readouterr().out
    for words in (
        "80 targets, 32 x 32 px, bands gri\n",
        "10 remote files with targets (6 MB); an epoch reads about 1 MB of them\n",
        "MB to download, in at least ",
        "requests; 10 URLs to be signed\n",
        "ms for an answer, measured just now\n",
        f"MB of it are in the disk cache, {tmp_path / 'cache'} (at most ",
    ):
        assert words in shown
    platform.set(rate=0.0, rtt=0.0)
    first = planned(capsys, arguments(remote_dp2, remote_dp2.url, "planes=[image,variance]"))["remote"]
    assert first["needed_bytes"] == first["bytes"] + first["cached_bytes"]
    assert 0 < first["cached_bytes"] < first["bytes"]
    assert first["rate"] > 0
    fill = ["cache", "fill", f"plan={tmp_path / 'plan.parquet'}", "planes=[image,variance]", f"repo={remote_dp2.url}"]
    assert main(fill) == 0
    after = planned(capsys, arguments(remote_dp2, remote_dp2.url, "planes=[image,variance]"))["remote"]
    assert (after["bytes"], after["requests"], after["signatures"], after["rate"]) == (0, 0, 0, 0)
    assert main(arguments(remote_dp2, remote_dp2.url)) == 0
    assert "about 0 MB to download, in at least 0 requests; 0 URLs to be signed\n" in capsys.readouterr().out


def test_a_local_plan_is_as_before(
    remote_dp2: Published, platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    platform.reset()
    local = planned(capsys, arguments(remote_dp2, remote_dp2.root))
    assert "remote" not in local
    assert local["files"] == 10
    assert main(arguments(remote_dp2, remote_dp2.root)) == 0
    assert "download" not in capsys.readouterr().out
    assert platform.log() == []


def test_planes_are_checked_before_the_repository_is_asked(
    remote_dp2: Published, platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    platform.reset()
    assert main(arguments(remote_dp2, remote_dp2.url, "planes=[picture]")) == 2
    assert "planes must be names from image, variance" in capsys.readouterr().err
    assert platform.log() == []


@pytest.mark.parametrize(
    ("seconds", "folder", "budget", "words"),
    [
        (90, "/c", 200 * GB, "about 90 s at 10.0 MB/s and 30 ms for an answer"),
        (1200, "/c", 200 * GB, "about 20 min at"),
        (36_000, "/c", 400 * GB, "about 10.0 h at"),
        (900, "/c", GB, "too small: every epoch downloads again; set LSSTCUTOUTS_CACHE_BYTES to '9.0 GB' or more"),
        (900, None, 0, "the disk cache is off: every epoch downloads this again; set LSSTCUTOUTS_CACHE to a folder"),
    ],
)
def test_what_is_said_of_time_and_cache(seconds: int, folder: str | None, budget: int, words: str) -> None:
    nbytes = 10_000_000 * seconds
    reading = RemoteReading(Download(6, 10**12, nbytes, 0, nbytes, 100, 6), Link(1e7, 0.03), folder, budget)
    assert words in str(reading)
    assert ("too small" in str(reading)) == (budget == GB)
    assert reading.as_dict()["seconds"] == seconds
