"""The token and signatures are in no file, pickle, log or traceback, and go to the server that the user named."""

import logging
import pickle
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lsstcutouts import CutoutLoader, CutoutPlan, build_plan
from lsstcutouts.errors import AuthenticationError, LsstCutoutsError
from lsstcutouts.plan.butler_errors import trust_repository
from lsstcutouts.source import access
from lsstcutouts.source.web.process import forget_bytes

from ..support.platform.science_platform import Platform, Published
from ..support.remote import dataset_of, epoch, remote_plan
from ..support.server import FileServer, serving

SIGNATURES = ("Signature=", "X-Amz-Signature", "X-Goog-Signature", "sig=")


@pytest.fixture
def untrusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which servers the user named."""
    monkeypatch.setattr(access, "_trusted", set())
    monkeypatch.delenv("LSSTCUTOUTS_TOKEN_HOSTS", raising=False)


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator[FileServer]:
    with serving(tmp_path) as server:
        yield server


def secret_in(text: str | bytes, platform: Platform) -> bool:
    plain = text if isinstance(text, bytes) else text.encode()
    return any(word.encode() in plain for word in (*SIGNATURES, platform.token))


def test_no_file_or_pickle_has_a_secret(
    platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_CACHE", str(tmp_path / "cache"))
    plan = remote_plan(remote_dp2)
    plan.save(tmp_path / "plan.parquet")
    loader = CutoutLoader(dataset_of(plan))
    list(loader)
    for thing in (plan, loader.dataset, loader.state_dict()):
        assert not secret_in(pickle.dumps(thing), platform)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        assert not secret_in(path.read_bytes(), platform)
        if "cache" in path.parts:
            assert path.stat().st_mode & 0o777 == 0o600


def test_no_log_has_a_secret(platform: Platform, remote_dp2: Published, caplog: pytest.LogCaptureFixture) -> None:
    """Of any library, at the level that says most."""
    caplog.set_level(logging.DEBUG)
    plan = build_plan(remote_dp2.url, remote_dp2.local.truth, collections=remote_dp2.collections, bands="gri", size=32)
    forget_bytes()
    platform.set(fault="expired", fault_n=1, expired="gcs", drop=0.1)
    epoch(dataset_of(plan))
    assert caplog.records
    assert not secret_in(caplog.text, platform)


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "expired"},
        {"deleted": "deep_coadd"},
        {"fault": "login"},
        {"token_revoked": True},
        {"token_scope": True},
        {"fault": "501"},
        {"api_fault": "404"},
        {"away": 1000.0},
    ],
)
def test_no_traceback_has_a_secret(
    platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch, fault: dict[str, object]
) -> None:
    monkeypatch.setenv("LSSTCUTOUTS_PATIENCE", "0.5")
    plan = remote_plan(remote_dp2)
    platform.set(**fault)
    with pytest.raises(LsstCutoutsError) as caught:
        epoch(dataset_of(plan))
    assert not secret_in("".join(traceback.format_exception(caught.value)), platform)
    assert not secret_in(pickle.dumps(caught.value.args), platform)


@pytest.mark.usefixtures("untrusted")
def test_a_plan_that_names_another_server_gets_no_token(
    platform: Platform, remote_dp2: Published, other_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it calls its repository; until the user names this server."""
    monkeypatch.setenv("LSST_HTTP_AUTH_BEARER_TOKEN", platform.token)
    monkeypatch.setenv("ACCESS_TOKEN", platform.token)
    plan = remote_plan(remote_dp2)
    uris = tuple(other_server.url + uri[uri.index("/v1/dataset") :] for uri in plan.files.uri)
    foreign = replace(plan, repo=other_server.url, files=replace(plan.files, uri=uris))
    with pytest.raises(LsstCutoutsError):
        epoch(dataset_of(foreign))
    assert other_server.tokens
    assert set(other_server.tokens) == {""}
    forget_bytes()
    trust_repository(other_server.url)
    with pytest.raises(LsstCutoutsError):
        epoch(dataset_of(foreign))
    assert set(other_server.tokens) == {"", f"Bearer {platform.token}"}


@pytest.mark.usefixtures("untrusted")
def test_a_plan_alone_says_what_is_missing(
    platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remote_plan(remote_dp2).save(tmp_path / "plan.parquet")
    access._trusted.clear()
    plan = CutoutPlan.load(tmp_path / "plan.parquet")
    with pytest.raises(AuthenticationError, match=r"no token was sent, since the plan names .* not you: give the URL"):
        epoch(dataset_of(plan))
    monkeypatch.setenv("LSSTCUTOUTS_TOKEN_HOSTS", "127.0.0.1")
    assert len(epoch(dataset_of(plan))) == len(plan)


def test_the_token_goes_to_the_butler_and_not_to_the_store(platform: Platform, remote_dp2: Published) -> None:
    epoch(dataset_of(remote_plan(remote_dp2)))
    assert platform.log("data")
    assert not any("authorization" in request.headers for request in platform.log("data"))
    signed = [request for request in platform.log("api") if request.path.endswith("/download")]
    assert {request.headers["authorization"] for request in signed} == {f"Bearer {platform.token}"}


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://data.lsst.cloud/api", True),
        ("http://data.lsst.cloud/api", False),
        ("http://127.0.0.1:80/", True),
        ("http://localhost:8080/", True),
        ("http://[::1]:8080/", True),
        ("http://127.0.0.1.evil.org/", False),
        ("http://localhost.evil.org/", False),
    ],
)
def test_no_token_over_plain_http(monkeypatch: pytest.MonkeyPatch, url: str, safe: bool) -> None:
    monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", "gt-secret")
    monkeypatch.setattr(access, "_trusted", {access.origin_of(url)})
    assert access.is_safe(url) == safe
    assert access.butler_token(url) == ("gt-secret" if safe else "")
    monkeypatch.setenv("LSSTCUTOUTS_TOKEN_HOSTS", access.origin_of(url))
    assert access.butler_token(url) == "gt-secret"


def test_a_butler_over_plain_http_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lsstcutouts.plan import butler_errors

    monkeypatch.setattr(butler_errors, "is_safe", lambda _: False)
    (tmp_path / "butler.yaml").write_text(
        "cls: lsst.daf.butler.remote_butler.RemoteButler\nremote_butler:\n  url: <butlerRoot>\n"
    )
    with (
        serving(tmp_path) as server,
        pytest.raises(AuthenticationError, match=r"is not encrypted.*LSSTCUTOUTS_TOKEN_HOSTS="),
    ):
        butler_errors.open_butler(server.url)


@pytest.mark.parametrize("host", ["data.lsst.cloud", "usdf-rsp.slac.stanford.edu"])
@pytest.mark.usefixtures("untrusted")
def test_rubins_own_servers_get_the_token_of_the_platform(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("BUTLER_RUBIN_ACCESS_TOKEN", raising=False)
    monkeypatch.setenv("ACCESS_TOKEN", "gt-notebook")
    assert access.butler_token(f"https://{host}/api/butler/repo/dp1/v1/dataset/x/download") == "gt-notebook"
    assert access.butler_token(f"https://{host}.evil.org/api") == ""
