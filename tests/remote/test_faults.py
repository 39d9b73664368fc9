"""Faults of the network and of servers: the epoch is complete and equal, or ends with the words that fit."""

import threading
import time

import numpy as np
import pytest

from lsstcutouts import CutoutLoader, LsstDataFetcher, build_plan
from lsstcutouts.errors import (
    AuthenticationError,
    LsstCutoutsError,
    RepositoryUnavailableError,
)
from lsstcutouts.source.web.process import figures_of_process, forget_bytes

from ..support.platform.science_platform import Platform, Published
from ..support.remote import arrays_of, dataset_of, epoch, local_plan, remote_plan, same

FAULTS = {
    "answers broken off": {"drop": 0.1},
    "connections closed": {"fault": "close", "fault_n": 2},
    "too busy": {"fault": "503", "fault_n": 1, "retry_after": 1},
    "too many requests": {"fault": "429", "fault_n": 2},
    "no answer": {"fault": "hang", "fault_n": 1},
    "the server of the Butler closes connections": {"api_fault": "close", "api_n": 5},
    "the server of the Butler is too busy": {"api_fault": "503", "api_n": 3, "retry_after": 1},
    "the network is lost": {"away": 1.0},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_epoch_through_a_fault(
    platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("LSST_HTTP_TIMEOUT_READ", "0.5")
    local = epoch(dataset_of(local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)))
    plan = remote_plan(remote_dp2)
    platform.set(**FAULTS[fault])
    dataset = dataset_of(plan)
    assert same(epoch(dataset), local)
    assert not dataset.report.failures
    if "broken" not in fault and "lost" not in fault:
        assert any(request.fault for request in platform.log())


def test_no_request_before_the_server_wants_one(platform: Platform, remote_dp2: Published) -> None:
    """Retry-After holds for all requests to the host, not only for the one that was refused."""
    plan = remote_plan(remote_dp2)
    epoch(dataset_of(plan))  # URLs are signed
    forget_bytes()
    platform.reset()
    platform.set(fault="503", fault_n=1, retry_after=2)
    epoch(dataset_of(plan))
    refused = [request for request in platform.log("data") if request.status == 503]
    first = min(request.time + request.seconds for request in refused)
    between = [request for request in platform.log("data") if first + 0.1 < request.time < first + 1.9]
    assert not between


def test_the_network_is_lost_in_the_middle(
    platform: Platform, remote_dp2: Published, caplog: pytest.LogCaptureFixture
) -> None:
    local = epoch(dataset_of(local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)))
    plan = remote_plan(remote_dp2)
    platform.set(rate=400_000.0)  # three seconds for the epoch
    lost = threading.Timer(1.0, platform.set, kwargs={"away": 3.0, "rate": 0.0})
    lost.start()
    assert same(epoch(dataset_of(plan)), local)
    lost.join()
    figures = figures_of_process()
    assert figures is not None
    assert not figures.waiting_for
    assert sum("waiting for http" in record.message for record in caplog.records) == 1
    assert sum("answers again, after" in record.message for record in caplog.records) == 1


def test_a_network_that_stays_away(platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the patience there is an error that says so, and the loader continues at the same batch."""
    monkeypatch.setenv("LSSTCUTOUTS_PATIENCE", "1")
    monkeypatch.setenv("LSSTCUTOUTS_CONNECTIONS", "4")
    local = epoch(dataset_of(local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)))
    loader = CutoutLoader(dataset_of(remote_plan(remote_dp2)))
    platform.set(rtt=0.1)
    batches, found = iter(loader), []
    found.append(next(batches))
    state = loader.state_dict()
    platform.set(away=1000.0)
    start = time.monotonic()
    with pytest.raises(
        RepositoryUnavailableError, match=r"has given no good answer for \d+ s.*resumes from its last checkpoint"
    ):
        list(batches)
    assert time.monotonic() - start < 10
    platform.reset()
    again = CutoutLoader(dataset_of(remote_plan(remote_dp2)))
    again.load_state_dict(state)
    assert same(arrays_of([*found, *again]), local)


@pytest.mark.parametrize(
    ("why", "kind", "words"),
    [
        ("login", AuthenticationError, "web page"),
        ("unknown", RepositoryUnavailableError, "nothing-here.*check the URL"),
        ("no token", AuthenticationError, "set BUTLER_RUBIN_ACCESS_TOKEN"),
        ("unused token", AuthenticationError, "BUTLER_RUBIN_ACCESS_TOKEN"),
        ("scope", AuthenticationError, "scope"),
        ("refused", AuthenticationError, "401"),
    ],
)
def test_what_a_repository_that_refuses_says(
    platform: Platform, remote_dp2: Published, monkeypatch: pytest.MonkeyPatch, why: str, kind: type, words: str
) -> None:
    url = remote_dp2.url
    if why == "login":
        platform.set(api_fault="login")
    elif why == "unknown":
        url = url.replace("/dp2", "/nothing-here")
    elif "token" in why:
        monkeypatch.delenv("BUTLER_RUBIN_ACCESS_TOKEN")
        if why == "unused token":
            monkeypatch.setenv("ACCESS_TOKEN", platform.token)  # is sent only to hosts of Rubin
    elif why == "scope":
        platform.set(token_scope=True)
    else:
        monkeypatch.setenv("BUTLER_RUBIN_ACCESS_TOKEN", "gt-other.token")
    with pytest.raises(kind, match=words) as caught:
        build_plan(url, remote_dp2.local.truth, collections=remote_dp2.collections, bands="gri", size=32)
    assert isinstance(caught.value, LsstCutoutsError)
    assert platform.token not in str(caught.value)


def test_a_store_without_ranges_needs_the_disk_cache(
    platform: Platform,
    remote_dp2: Published,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every file is then downloaded as a whole, once, with one warning."""
    plan = remote_plan(remote_dp2)
    platform.set(no_ranges=True)
    with pytest.raises(LsstCutoutsError, match="ignores byte ranges"):
        epoch(dataset_of(plan))
    while figures_of_process().active:  # requests of the epoch that failed
        time.sleep(0.01)
    monkeypatch.setenv("LSSTCUTOUTS_CACHE", str(tmp_path / "cache"))
    local = epoch(dataset_of(local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)))
    plan = remote_plan(remote_dp2)
    platform.reset()
    platform.set(no_ranges=True)
    assert same(epoch(dataset_of(plan)), local)
    assert platform.counters().data_bytes == sum(plan.files.size)
    assert sum("ignores byte ranges" in record.message for record in caplog.records) == 1


def test_positions_of_a_repository_behind_a_server(platform: Platform, remote_dp2: Published) -> None:
    """A notebook that fetches, loses the network, and fetches again."""
    plan = local_plan(remote_dp2.root, remote_dp2.collections, remote_dp2.local.truth)
    with LsstDataFetcher(remote_dp2.url, collections=remote_dp2.collections, bands="gri", size=32) as fetcher:
        first = fetcher.fetch(plan.ra[:5], plan.dec[:5])
        fetcher.cache.clear()
        forget_bytes()
        platform.set(away=0.7)
        again = fetcher.fetch(plan.ra[:5], plan.dec[:5])
        np.testing.assert_array_equal(first["image"], again["image"])
