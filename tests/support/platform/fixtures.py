"""Fixtures with a science platform, for tests/conftest.py to import."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from lsst.daf.butler.remote_butler import _http_connection

from lsstcutouts.testing import SimulatedRepository

from .science_platform import Platform, Published
from .settings import TOKEN

HTTPX: Any = getattr(_http_connection, "httpx2", None) or _http_connection.httpx  # type: ignore[attr-defined]
"""The HTTP client of daf_butler, which has another name in older versions."""

__all__ = ["closed_clients", "platform", "remote_dp1", "remote_dp2", "shared_platform"]


@pytest.fixture(scope="session")
def shared_platform(
    dp2_repo: SimulatedRepository, dp1_repo: SimulatedRepository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A platform with the repositories ``dp2`` and ``dp1``; take `platform`, which resets it."""
    with Platform(tmp_path_factory.mktemp("platform")) as running:
        for repository in (dp2_repo, dp1_repo):
            running.publish(repository.release, repository.root, repository.collections)
        running.url("dp2")
        yield running


@pytest.fixture
def closed_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the connections of the test's remote Butlers after it.

    `RemoteButler.close` does nothing; a client that is not closed fails a later test with a ResourceWarning.
    """
    with ExitStack() as clients:

        class ClosedClient(HTTPX.Client):  # type: ignore[misc, name-defined]
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                clients.callback(self.close)

        monkeypatch.setattr(HTTPX, "Client", ClosedClient)
        yield


@pytest.fixture
def platform(
    shared_platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
    closed_clients: None,
) -> Iterator[Platform]:
    """The platform with its default settings and an empty log; this process has a good token and nothing of AWS."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "S3_")) or name in {"ACCESS_TOKEN", "CADC_TOKEN"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", TOKEN)
    shared_platform.reset()
    yield shared_platform
    shared_platform.reset()


@pytest.fixture
def remote_dp2(platform: Platform) -> Published:
    """The repository of `dp2_repo` behind the platform's Butler server."""
    return platform.published("dp2")


@pytest.fixture
def remote_dp1(platform: Platform) -> Published:
    """The repository of `dp1_repo` behind the platform's Butler server."""
    return platform.published("dp1")
