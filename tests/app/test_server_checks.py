"""The doctor on remote repositories: healthy, and with every trouble of server, token and clock."""

import socket
import sys
import time
from typing import Any

import pytest

from lsstcutouts.app.doctor import CHECKS, Result, Settings, diagnose, server_checks

from ..support.doctor import one
from ..support.platform.science_platform import Platform, Published
from ..support.platform.settings import TOKEN

REMOTE = ("server", "clock", "token", "repository", "access", "store", "disk", "cutout")
TOKENS = ("BUTLER_RUBIN_ACCESS_TOKEN", "ACCESS_TOKEN", "LSST_HTTP_AUTH_BEARER_TOKEN", "CADC_TOKEN")
FILES = "is set, but is sent only to file servers, not to the Butler server 127.0.0.1"
PLATFORM = "ACCESS_TOKEN is set, but is sent only to *.lsst.cloud and *.slac.stanford.edu, not to 127.0.0.1"


def settings(repository: Published, **others: Any) -> Settings:
    return Settings(**{"repo": repository.url, "collections": repository.collections} | others)


def set_tokens(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_healthy_remote_repository_passes(
    remote_dp1: Published, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_CACHE", str(tmp_path))
    monkeypatch.setenv("ACCESS_TOKEN", "gt-of-the.platform")
    results = diagnose(settings(remote_dp1, size=32), names=REMOTE).results
    assert [result.status for result in results.values()] == ["pass"] * len(REMOTE), results
    details = {name: result.detail for name, result in results.items()}
    origin = remote_dp1.url.partition("/api/")[0]
    assert details["token"] == (
        f"BUTLER_RUBIN_ACCESS_TOKEN is set, sent only to {origin}, and accepted; ACCESS_TOKEN is not used"
    )
    assert details["server"].startswith(f"{remote_dp1.url} answers in ")
    assert "API v1 with dimensions daf_butler 8; authentication rubin_science_platform" in details["server"]
    assert details["clock"] == "the clocks of this machine and of 127.0.0.1 agree within 2 s"
    assert "10 deep_coadd" in details["repository"]
    assert "equal astropy bit for bit" in details["cutout"]
    shown = str(results)
    assert not [secret for secret in (TOKEN, "gt-of-the.platform", "Signature", "AWSAccessKeyId") if secret in shown]


def test_labels_of_the_index_are_remote_too(
    platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAF_BUTLER_REPOSITORY_INDEX", platform.index)
    assert one("token", settings(remote_dp2, repo="dp2")).status == "pass"


@pytest.mark.parametrize(
    ("variables", "detail", "todo"),
    [
        ({}, "no token: BUTLER_RUBIN_ACCESS_TOKEN is not set", "scope read:image of 127.0.0.1, and set BUTLER_RUBIN"),
        ({"ACCESS_TOKEN": TOKEN}, PLATFORM, "set BUTLER_RUBIN_ACCESS_TOKEN"),
        (
            {"LSST_HTTP_AUTH_BEARER_TOKEN": TOKEN},
            f"LSST_HTTP_AUTH_BEARER_TOKEN {FILES}",
            "set BUTLER_RUBIN_ACCESS_TOKEN",
        ),
        ({"CADC_TOKEN": TOKEN}, f"CADC_TOKEN {FILES}", "set BUTLER_RUBIN_ACCESS_TOKEN"),
        ({TOKENS[0]: f"{TOKEN}\n"}, "ends with a space or line break", "again, to the token alone"),
        ({TOKENS[0]: f"“{TOKEN}”"}, "characters that no token has", "again, to the token alone"),
        ({TOKENS[0]: "gt-other.token"}, "has expired, was revoked, or is of another server", "create a new token"),
    ],
)
def test_wrong_tokens(
    variables: dict[str, str], detail: str, todo: str, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_tokens(monkeypatch, **variables)
    results = diagnose(settings(remote_dp2), names=("server", "token", "repository", "cutout")).results
    assert results["server"].status == "pass"
    assert results["token"].status == "fail"
    assert detail in results["token"].detail
    assert todo in results["token"].todo
    assert not [value for value in variables.values() if value.strip() in str(results)]
    assert results["repository"].detail == "not tried, because 'token' failed"
    assert results["cutout"].detail == "not tried, because 'Butler repository' failed"


@pytest.mark.parametrize(
    ("change", "detail", "todo"),
    [
        ({"token_revoked": True}, "answers 401 Unauthorized (", "create a new token with the scope read:image"),
        ({"token_scope": True}, "answers 403 Forbidden (insufficient_scope): the token in BUTLER_RUBIN", "read:image"),
        ({"api_fault": "login"}, "127.0.0.1 answers 200 with another page, such as a login page", "check the URL"),
        ({"api_fault": "302"}, "127.0.0.1 answers 302 with another page, such as a login page", "check the URL"),
    ],
)
def test_tokens_that_the_server_refuses(
    change: dict[str, Any], detail: str, todo: str, platform: Platform, remote_dp2: Published
) -> None:
    platform.set(**change)
    result = one("token", settings(remote_dp2))
    assert result.status == "fail"
    assert detail in result.detail
    assert todo in result.todo


def test_tokens_are_not_sent_without_encryption(remote_dp2: Published, platform: Platform) -> None:
    other = remote_dp2.url.replace("127.0.0.1", "0.0.0.0")
    result = one("token", settings(remote_dp2, repo=other))
    assert result.status == "fail"
    assert "which is not encrypted" in result.detail
    assert f"LSSTCUTOUTS_TOKEN_HOSTS={other.partition('/api/')[0]}" in result.todo
    assert not [request for request in platform.log() if "authorization" in request.headers]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("data.lsst.cloud", " at https://data.lsst.cloud/auth/tokens"), ("lsst.cloud.example", " of lsst.cloud.example")],
)
def test_the_page_that_makes_tokens_is_named(host: str, expected: str) -> None:
    assert server_checks._token_page(host) == expected


def test_unknown_repositories(platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAF_BUTLER_REPOSITORY_INDEX", platform.index)
    unknown = one("server", settings(remote_dp2, repo=remote_dp2.url.replace("/dp2", "/dp3")))
    assert unknown.status == "fail"
    assert "answers 500 Internal Server Error: it does not know a repository 'dp3'" in unknown.detail
    assert "did you mean 'dp2'" in unknown.todo
    elsewhere = one("server", settings(remote_dp2, repo=remote_dp2.url.replace("/repo/dp2", "/dp2")))
    assert "answers 404 Not Found" in elsewhere.detail


def test_a_server_that_is_away(platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}/api/butler/repo/dp2"
    results = diagnose(settings(remote_dp2, repo=gone), names=("server", "token", "repository", "access")).results
    assert f"{gone.partition('/api/')[0]} does not answer" in results["server"].detail
    assert "HTTPS_PROXY" in results["server"].todo
    assert {results[name].detail for name in ("token", "repository")} == {"not tried, because 'Butler server' failed"}
    monkeypatch.setattr(server_checks, "_TIMEOUT", 0.5)
    platform.set(api_fault="hang")
    assert "does not answer" in one("server", settings(remote_dp2)).detail
    platform.set(api_fault="503")
    busy = one("server", settings(remote_dp2))
    assert "answers 503 Service Unavailable" in busy.detail
    assert "try again later" in busy.todo


def test_without_the_package_for_servers(remote_dp2: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lsst.daf.butler.remote_butler", None)
    result = one("server", settings(remote_dp2))
    assert result.status == "fail"
    assert result.todo == "pip install 'lsstcutouts[remote]'"


@pytest.mark.parametrize(
    ("offset", "status", "words"),
    [(0, "pass", "agree within 2 s"), (50, "pass", "within 5"), (90, "warn", "s ahead of"), (-200, "warn", "s behind")],
)
def test_clocks_that_differ(
    offset: float, status: str, words: str, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_checks, "time", lambda: time.time() + offset)
    result = one("clock", settings(remote_dp2))
    assert result.status == status
    assert words in result.detail


def test_a_local_repository_has_no_line_on_servers(remote_dp2: Published) -> None:
    local = Settings(repo=str(remote_dp2.root), collections=remote_dp2.collections)
    assert list(diagnose(local, names=("server", "clock", "token", "access", "store", "disk")).results) == []
    assert list(diagnose(names=("server", "clock", "token", "access", "store", "disk")).results) == []
    wrong = Settings(repo=str(remote_dp2.root), collections="none")
    failed = diagnose(wrong, names=("repository", "access", "store", "disk")).results
    assert list(failed) == ["repository"]


def test_a_page_that_is_not_a_repository(remote_dp2: Published, platform: Platform) -> None:
    result = one("server", settings(remote_dp2, repo=platform.index))
    assert result == Result(
        "pass", f"{platform.index} names no Butler server: the Butler here asks the registry database itself"
    )
    assert CHECKS["token"].needs == ("lsst", "server")
