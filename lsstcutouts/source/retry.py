"""Retries calls that fail for a transient reason, a few times and within a time limit."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import LsstCutoutsError
from .locks import ForkLock

__all__ = ["Clock", "Retry", "SystemClock"]

_log = logging.getLogger(__name__)


class Clock(Protocol):
    """Time and random numbers for `Retry`, replaceable in tests."""

    def now(self) -> float:
        """Return seconds of a monotonic clock."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        ...

    def draw(self) -> float:
        """Return a random number, uniform in [0, 1)."""
        ...


class SystemClock:
    """The system's clock and random numbers.

    The global generator of `random` is not used: forked workers share its state and would all wait the same time.
    """

    def now(self) -> float:
        """Return seconds of the monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        time.sleep(seconds)

    def draw(self) -> float:
        """Return a random number, uniform in [0, 1)."""
        return random.SystemRandom().random()


@dataclass(frozen=True, slots=True)
class Retry:
    """Retries a call that fails for a transient reason.

    Exponential backoff with full jitter: after try ``n`` it waits a uniformly random part of ``first * 2**(n - 1)``
    seconds, so that a thousand readers that a server refused do not return at the same time (Brooker 2015,
    "Exponential Backoff And Jitter", AWS Architecture Blog).

    A call takes at most ``total`` seconds plus the duration of one try that starts just before that.

    Attributes
    ----------
    tries
        Largest number of tries: four are enough to outlast the restart of a proxy, and do not hide a dead server.
    first, longest
        Longest wait after the first try, and after any try, seconds.
    total
        Time limit for all tries, seconds. Retries of the libraries below count too, so that the two do not multiply.
        After a minute a user should see the error.
    clock
        Clock, sleep and random numbers.
    """

    tries: int = 4
    first: float = 0.5
    longest: float = 8.0
    total: float = 60.0
    clock: Clock = field(default_factory=SystemClock)

    def call[T](self, function: Callable[[], T], name: str) -> T:
        """Return the result of the function, with retries.

        An error that is not ``transient`` is raised at once. After several tries, a note on the error gives their number.

        Parameters
        ----------
        function
            Function to call; a retry calls it again.
        name
            What the call does or reads, such as a URI: the first failure of each name is logged.
        """
        start = self.clock.now()
        tried = 0
        while True:
            try:
                return function()
            except LsstCutoutsError as error:
                tried += 1
                wait = self.clock.draw() * min(self.longest, self.first * 2.0 ** (tried - 1))
                spent = self.clock.now() - start
                if not error.transient or tried >= self.tries or spent + wait > self.total:
                    if tried > 1:
                        error.add_note(f"tried {tried} times in {spent:.1f} s")
                    raise
                _failure_log.log_first(name, error)
            self.clock.sleep(wait)


class _FailureLog:
    """Logs the first failure of each name; forgets all names when there are ``max_names``."""

    max_names = 10_000

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._names: set[str] = set()

    def log_first(self, name: str, error: Exception) -> None:
        with self._lock:
            known = name in self._names
            if len(self._names) >= self.max_names:
                self._names.clear()
            self._names.add(name)
        if not known:
            _log.warning("retrying %s (logged once): %s", name, error)


_failure_log = _FailureLog()
