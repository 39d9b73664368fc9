"""Trying again: what is tried, how often, how long, and what is said about it. No test waits."""

import logging
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsstcutouts import errors
from lsstcutouts.errors import LsstCutoutsError, MissingFileError, TransientReadError
from lsstcutouts.source.retry import Retry, SystemClock

from ..support.clock import FakeClock

KINDS = [getattr(errors, name) for name in errors.__all__]


def failing(error: LsstCutoutsError, times: int, clock: FakeClock, seconds: float = 0.0) -> Callable[[], str]:
    """Return a function that takes some seconds, fails so many times and then answers."""
    left = [times]

    def function() -> str:
        clock.time += seconds
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "answer"

    return function


def test_a_passing_failure_passes() -> None:
    clock = FakeClock()
    assert Retry(clock=clock).call(failing(TransientReadError("busy"), 3, clock), "a") == "answer"
    assert clock.slept == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_can_pass_is_tried_again(kind: type[LsstCutoutsError]) -> None:
    clock = FakeClock()
    retry = Retry(tries=2, clock=clock)
    if kind.transient:
        assert retry.call(failing(kind("no"), 1, clock), "b") == "answer"
    else:
        with pytest.raises(kind):
            retry.call(failing(kind("no"), 1, clock), "b")
    assert len(clock.slept) == kind.transient


def test_other_exceptions_are_not_touched() -> None:
    with pytest.raises(ZeroDivisionError):
        Retry(clock=FakeClock()).call(lambda: 1 // 0, "c")


def test_the_last_error_is_raised_and_counts_the_tries() -> None:
    clock = FakeClock()
    with pytest.raises(TransientReadError, match="still busy") as caught:
        Retry(clock=clock).call(failing(TransientReadError("still busy"), 99, clock, seconds=1), "d")
    assert caught.value.__notes__ == ["tried 4 times in 7.5 s"]  # four seconds of work, 3.5 of waits


def test_a_single_try_bears_no_note() -> None:
    with pytest.raises(MissingFileError) as caught:
        Retry(clock=FakeClock()).call(failing(MissingFileError("gone"), 1, FakeClock()), "e")
    assert not hasattr(caught.value, "__notes__")


def test_long_tries_use_up_the_time() -> None:
    """A library below that tries for a minute on its own is not asked four times to do so."""
    clock = FakeClock()
    with pytest.raises(TransientReadError):
        Retry(clock=clock).call(failing(TransientReadError("slow"), 99, clock, seconds=70), "f")
    assert clock.slept == []


@given(st.integers(1, 12), st.floats(0, 1, exclude_max=True), st.floats(0, 40), st.floats(0.01, 9), st.floats(0.1, 120))
def test_count_and_time_are_bounded(tries: int, share: float, seconds: float, first: float, total: float) -> None:
    clock = FakeClock(share)
    retry = Retry(tries=tries, first=first, total=total, clock=clock)
    start, tried = clock.time, []

    def function() -> None:
        tried.append(clock.time)
        clock.time += seconds
        raise TransientReadError("never")

    with pytest.raises(TransientReadError):
        retry.call(function, "g")
    assert 1 <= len(tried) <= tries
    assert clock.time - start <= total + seconds + 1e-6 or len(tried) == 1
    assert all(wait <= min(retry.longest, first * 2.0**i) for i, wait in enumerate(clock.slept))


def test_jitter_is_full() -> None:
    """The wait is a share of the bound, from nothing to all of it; the machine's own draws differ."""
    clock = FakeClock(0.0)
    assert Retry(clock=clock).call(failing(TransientReadError("busy"), 3, clock), "h") == "answer"
    assert clock.slept == [0.0, 0.0, 0.0]
    draws = {SystemClock().draw() for _ in range(20)}
    assert len(draws) == 20
    assert all(0 <= draw < 1 for draw in draws)


def test_a_name_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            Retry(clock=clock).call(failing(TransientReadError("busy"), 2, clock), "https://server/one.fits")
        Retry(clock=clock).call(failing(TransientReadError("busy"), 1, clock), "https://server/two.fits")
    assert [record.getMessage().count("one.fits") for record in caplog.records] == [1, 0]
    assert "busy" in caplog.text


def test_the_clock_of_the_machine_goes_on() -> None:
    clock = SystemClock()
    before = clock.now()
    clock.sleep(0.001)
    assert clock.now() >= before + 0.001
