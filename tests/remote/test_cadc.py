"""A Butler server whose files need a token, as that of CADC: the web server of the files gets it, and no other server."""

from collections.abc import Iterator

import pytest
from lsst.daf.butler.remote_butler.authentication import cadc

from lsstcutouts import build_plan
from lsstcutouts.app.doctor import Settings
from lsstcutouts.errors import AuthenticationError
from lsstcutouts.plan.cutout_plan import CutoutPlan
from lsstcutouts.source import access
from lsstcutouts.source.web.process import forget_bytes
from lsstcutouts.testing import SimulatedRepository

from ..support.doctor import one
from ..support.platform.cadc import TOKEN, Archive, butler_of
from ..support.remote import dataset_of, epoch, local_plan, same
from ..support.server import CERTIFICATE, serving


@pytest.fixture(scope="module")
def servers(dp2_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Archive]]:
    with (
        serving(dp2_repo.root, Archive) as archive,
        butler_of(dp2_repo, archive.url, tmp_path_factory.mktemp("cadc")) as url,
    ):
        yield url, archive


@pytest.fixture
def url(servers: tuple[str, Archive], monkeypatch: pytest.MonkeyPatch, closed_clients: None) -> str:
    """The repository, on a host that is one of CADC's for the Butler and for this package."""
    monkeypatch.setattr(cadc, "_SERVER_WHITELIST", ["127.0.0.1"])
    monkeypatch.setattr(access, "_CADC", ("127.0.0.1",))
    monkeypatch.setenv("LSST_HTTP_CACERT_BUNDLE", str(CERTIFICATE))
    monkeypatch.setenv("CADC_TOKEN", TOKEN)
    for name in ("BUTLER_RUBIN_ACCESS_TOKEN", "ACCESS_TOKEN", "LSST_HTTP_AUTH_BEARER_TOKEN", "LSSTCUTOUTS_TOKEN_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    servers[1].tokens.clear()
    forget_bytes()
    return servers[0]


@pytest.fixture
def archive(servers: tuple[str, Archive]) -> Archive:
    return servers[1]


def planned(url: str, repository: SimulatedRepository) -> CutoutPlan:
    return build_plan(url, repository.truth, collections="dp2", bands="gri", size=32)


def test_an_epoch(url: str, archive: Archive, dp2_repo: SimulatedRepository) -> None:
    plan = planned(url, dp2_repo)
    assert all(uri.startswith(archive.url) for uri in plan.files.uri)
    local = epoch(dataset_of(local_plan(dp2_repo.root, dp2_repo.collections, dp2_repo.truth)))
    assert same(epoch(dataset_of(plan)), local)
    assert set(archive.tokens) == {f"Bearer {TOKEN}"}


def test_a_redirect_to_another_server(
    url: str, archive: Archive, dp2_repo: SimulatedRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from CADC's locator of files to a storage site: that one is not sent the token."""
    plan = planned(url, dp2_repo)
    with serving(dp2_repo.root) as site:
        moved = next(uri for uri in plan.files.uri if "5063_9_r" in uri).removeprefix(archive.url)
        monkeypatch.setitem(archive.refused, moved, (307, b"", {"Location": f"{site.url}{moved}"}))
        epoch(dataset_of(plan))
        assert site.tokens
        assert set(site.tokens) == {""}


def test_a_token_that_is_missing_or_refused(
    url: str, archive: Archive, dp2_repo: SimulatedRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says which variable to set; the Butler's token of another platform is sent to nobody."""
    plan = planned(url, dp2_repo)
    monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", "gt-of-rubin")
    monkeypatch.setenv("CADC_TOKEN", "expired")
    forget_bytes()
    archive.tokens.clear()
    with pytest.raises(AuthenticationError, match=r"401 Unauthorized.*set CADC_TOKEN to a valid token of CADC"):
        epoch(dataset_of(plan))
    assert set(archive.tokens) == {"Bearer expired"}
    monkeypatch.delenv("CADC_TOKEN")
    with pytest.raises(AuthenticationError, match=r"need a token, and none is set; set CADC_TOKEN"):
        planned(url, dp2_repo)


def test_the_doctor(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", "gt-of-rubin")
    settings = Settings(repo=url, collections="dp2")
    assert "authentication cadc" in one("server", settings).detail
    result = one("token", settings)
    assert (result.status, result.detail.partition(";")[0]) == ("pass", "CADC_TOKEN is set")
    monkeypatch.delenv("CADC_TOKEN")
    result = one("token", settings)
    assert (result.status, result.todo.partition(" to ")[0]) == ("fail", "set CADC_TOKEN")


def test_hosts_that_only_look_like_those_of_cadc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CADC_TOKEN", TOKEN)
    for url in ("https://ws-uv.canfar.net/minoc", "https://www.cadc-ccda.hia-hia.nrc-cnrc.gc.ca/raven"):
        assert access.file_token(url) == TOKEN
        assert access.file_token(url.replace("https", "http")) == ""
        assert access.file_token(url.replace("/minoc", ".evil.org/").replace("/raven", ".evil.org/")) == ""
        assert access.butler_token(url) == ""
