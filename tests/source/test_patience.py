"""How long a Butler server that is away is waited for. No test waits."""

import logging
from collections.abc import Callable

import pytest

from lsstcutouts.errors import AuthenticationError, RepositoryUnavailableError
from lsstcutouts.source.patience import Patience
from lsstcutouts.source.retry import Retry
from lsstcutouts.source.web.answers import Answer, AnswerError

from ..support.clock import FakeClock

SERVER = "https://butler.example"


def refusal(status: int | None, retry_after: int = 0) -> RepositoryUnavailableError:
    """Return what a query raises for an answer; None for no answer."""
    error = RepositoryUnavailableError("no bands")
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    error.__cause__ = (
        ConnectionError("lost") if status is None else AnswerError(Answer(SERVER, status, "Busy", headers))
    )
    return error


def away(error: Exception, clock: FakeClock, seconds: float) -> Callable[[], str]:
    """Return a query that fails for so many seconds from its first call on."""
    end: list[float] = []

    def query() -> str:
        end[:] = end or [clock.now() + seconds]
        if clock.now() < end[0]:
            raise error
        return "answer"

    return query


def patience(clock: FakeClock, *, answered: bool = True) -> Patience:
    found = Patience(Retry(clock=clock))
    if answered:
        found.call(lambda: "answer", "first", SERVER)
    return found


@pytest.fixture(autouse=True)
def ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LSSTCUTOUTS_PATIENCE")


@pytest.mark.parametrize("status", [None, 408, 429, 502, 503, 504])
def test_a_server_is_waited_for(status: int | None, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    with caplog.at_level(logging.WARNING):
        assert patience(clock).call(away(refusal(status), clock, 550), "bands", SERVER) == "answer"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith(f"waiting for {SERVER}, for at most 600 s: ")
    assert said[1].startswith(f"{SERVER} answers again, after 55")


def test_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    with pytest.raises(RepositoryUnavailableError, match=r"no good answer for 600 s: no bands.*LSSTCUTOUTS_PATIENCE"):
        patience(clock).call(away(refusal(None), clock, 700), "bands", SERVER)
    monkeypatch.setenv("LSSTCUTOUTS_PATIENCE", "1000")
    assert patience(clock).call(away(refusal(None), clock, 700), "bands", SERVER) == "answer"


def test_a_server_that_has_never_answered_is_tried_for_a_minute() -> None:
    clock = FakeClock()
    with pytest.raises(RepositoryUnavailableError, match="no good answer for 60 s"):
        patience(clock, answered=False).call(away(refusal(None), clock, 100), "bands", SERVER)


def test_a_server_is_asked_again_when_it_wants_to_be() -> None:
    clock = FakeClock()
    assert patience(clock).call(away(refusal(503, retry_after=90), clock, 200), "bands", SERVER) == "answer"
    assert clock.slept == [90, 90, 90]
    with pytest.raises(RepositoryUnavailableError, match="wants no request for 3600 s"):
        patience(clock).call(away(refusal(429, retry_after=3600), clock, 4000), "bands", SERVER)
    assert clock.slept == [90, 90, 90]


@pytest.mark.parametrize("error", [refusal(500), AuthenticationError("refused")])
def test_other_failures_are_not_waited_for(error: Exception) -> None:
    clock = FakeClock()
    with pytest.raises(type(error)) as caught:
        patience(clock).call(away(error, clock, 100), "bands", SERVER)
    assert caught.value is error
    assert sum(clock.slept) < 10


def test_a_registry_of_files_is_not_a_server() -> None:
    clock = FakeClock()
    with pytest.raises(RepositoryUnavailableError, match="no bands"):
        patience(clock).call(away(refusal(None), clock, 100), "bands", "")
    assert sum(clock.slept) < 10
