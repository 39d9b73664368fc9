"""Trying again: only what can pass by itself, a few times, within a bounded time."""

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
    """Time and chance, as a retry sees them."""

    def now(self) -> float:
        """Return seconds of a clock that never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def draw(self) -> float:
        """Return a number of the uniform distribution over [0, 1)."""
        ...


class SystemClock:
    """The machine's clock and its own source of chance.

    Not the generator of `random`, whose state forked workers share: they would all wait the same time and meet again.
    """

    def now(self) -> float:
        """Return seconds of the monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def draw(self) -> float:
        """Return a number of the uniform distribution over [0, 1)."""
        return random.SystemRandom().random()


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how long a call is tried that fails for a passing reason.

    Exponential backoff with full jitter: before try ``n + 1`` it waits a uniform share of ``first * 2**(n - 1)``
    seconds, so that a thousand readers which a server turned away do not come back together (Brooker 2015,
    "Exponential Backoff And Jitter", AWS Architecture Blog).

    The longest that a call can take is ``total`` and the time of one try that begins just before it is over.

    Attributes
    ----------
    tries
        How often in all: four outlast a restarted proxy and do not hide a server that is down.
    first, longest
        Seconds: bounds of the first and of any wait.
    total
        Seconds in all, tries included: libraries below that try again themselves use it up, so that their tries and
        these do not multiply. After a minute a person would rather be told.
    clock
        Clock, sleep and chance.
    """

    tries: int = 4
    first: float = 0.5
    longest: float = 8.0
    total: float = 60.0
    clock: Clock = field(default_factory=SystemClock)

    def call[T](self, function: Callable[[], T], name: str) -> T:
        """Return what the function returns.

        An error that is not ``transient`` is raised at once. The last of several bears a note that counts the tries.

        Parameters
        ----------
        function
            What may fail. It is called again from the beginning.
        name
            What is tried, such as a URI: its first failure is logged, later ones are not.
        """
        start = self.clock.now()
        tried = 0
        while True:
            try:
                return function()
            except LsstCutoutsError as error:
                tried += 1
                wait = self._wait(tried)
                spent = self.clock.now() - start
                if not error.transient or tried >= self.tries or spent + wait > self.total:
                    if tried > 1:
                        error.add_note(f"tried {tried} times in {spent:.1f} s")
                    raise
                _failure_log.log_first(name, error)
            self.clock.sleep(wait)

    def _wait(self, tried: int) -> float:
        """Return the seconds to wait after the ``tried``-th failure."""
        return self.clock.draw() * min(self.longest, self.first * 2.0 ** (tried - 1))


class _FailureLog:
    """Logs the first failure of each name; forgets all of them before the memory for names grows large."""

    most = 10_000

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._names: set[str] = set()

    def log_first(self, name: str, error: Exception) -> None:
        with self._lock:
            known = name in self._names
            if len(self._names) >= self.most:
                self._names.clear()
            self._names.add(name)
        if not known:
            _log.warning("trying again (said once for %s): %s", name, error)


_failure_log = _FailureLog()
